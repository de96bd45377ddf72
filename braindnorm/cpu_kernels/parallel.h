// Work in chunks, on XLA's threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace braindnorm {

// Runs `run(chunk)` for each chunk, here and on XLA's own threads. It waits for no task that has not begun, so threads
// that are busy elsewhere delay nothing. What a chunk throws is thrown here, when no thread is at work any more: out of
// a task it would end the process.
template <class Run>
void in_parallel(ffi::ThreadPool pool, int64_t chunks, const Run &run) {
  if (chunks == 1) return run(int64_t(0));
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
  };
  auto state = std::make_shared<State>();
  const Run *job = &run;
  auto work = [state, job, chunks] {
    for (int64_t chunk; (chunk = state->next.fetch_add(1)) < chunks;) {
      try {
        if (!state->failed) (*job)(chunk);
      } catch (...) {
        if (!state->failed.exchange(true)) state->error = std::current_exception();
      }
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  try {
    for (int64_t other = 1; other < std::min(chunks, pool.num_threads()); ++other) pool.Schedule(decltype(work)(work));
  } catch (const std::bad_alloc &) {
    // fewer threads share the work
  }
  work();
  while (state->done.load(std::memory_order_acquire) < chunks) std::this_thread::yield();
  if (state->failed) std::rethrow_exception(state->error);
}

}  // namespace braindnorm
