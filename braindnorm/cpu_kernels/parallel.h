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

// XLA's threads, or none but this one.
using Threads = ffi::ThreadPool *;

// Runs `run(chunk)` for each chunk, here and on XLA's own threads. It waits for no task that has not begun, so threads
// that are busy elsewhere delay nothing. What a chunk throws is thrown here, when no thread is at work any more: out of
// a task it would end the process.
template <class Run>
void in_parallel(Threads threads, int64_t chunks, const Run &run) {
  if (!threads || chunks == 1) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) run(chunk);
    return;
  }
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
    for (int64_t other = 1; other < std::min(chunks, threads->num_threads()); ++other)
      threads->Schedule(decltype(work)(work));
  } catch (const std::bad_alloc &) {
    // fewer threads share the work
  }
  work();
  while (state->done.load(std::memory_order_acquire) < chunks) std::this_thread::yield();
  if (state->failed) std::rethrow_exception(state->error);
}

}  // namespace braindnorm
