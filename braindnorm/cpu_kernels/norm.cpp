// Layer, RMS and group norm for XLA on a CPU: the value, and the gradient of a cotangent.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "rows.h"
#include "slabs.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace braindnorm {
namespace {

// Runs `run(chunk)` for each chunk, here and on XLA's own threads. It waits for no task that has not begun, so threads
// that are busy elsewhere delay nothing. What a chunk throws is thrown here, when no thread is at work any more: out of
// a task it would end the process.
template <class Run>
void in_parallel(ffi::ThreadPool pool, int64_t chunks, const Run &run) {
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

// Calls run(chunk, first, last) for the items of each chunk, which has `size` of them.
template <class Run>
void for_chunks(ffi::ThreadPool pool, const View &view, int64_t size, const Run &run) {
  in_parallel(pool, (view.items() + size - 1) / size, [&](int64_t chunk) {
    run(chunk, chunk * size, std::min(view.items(), (chunk + 1) * size));
  });
}

template <class A, class X, class M>
void forward(ffi::ThreadPool pool, const View &view, const X *x, M mask, A epsilon, const A *scale,
             const A *bias, A *y, const Saved<A> &saved) {
  const int64_t n = view.row();
  for_chunks(pool, view, view.items_in_chunk(0), [&](int64_t, int64_t first, int64_t last) {
    if (view.space == 1) {
      const auto run = [&](const auto &some, auto parts, auto own) {
        forward_rows<parts>(view, some, x, own, epsilon, scale, bias, y, saved);
      };
      for_rows<4, 4, kBlock>(view, first, last, mask, run, [&](int64_t item) {
        saved.put(item, {});
        std::fill_n(y + item * n, n, A(0));
      });
    } else if constexpr (!std::is_same_v<M, RowMask>) {
      for (int64_t item = first; item < last; ++item)
        forward_slab(view, item, x, mask, epsilon, scale, bias, y, saved);
    }
  });
}

// Every chunk has sums of its own for the parameters, which are added in the order of the chunks: the result does not
// depend on which thread did what. It has some rows at least, so that these sums cost little.
template <class A, class X, class M>
void backward(ffi::ThreadPool pool, const View &view, const X *x, M mask, const A *g, const A *scale,
              const Saved<A> &saved, X *dx, A *dscale, A *dbias) {
  const int64_t n = view.parameters(), size = view.items_in_chunk(8 * n), chunks = (view.items() + size - 1) / size;
  std::vector<A> parts(2 * n * (chunks - 1));
  std::fill_n(dscale, n, A(0)), std::fill_n(dbias, n, A(0));
  for_chunks(pool, view, size, [&](int64_t chunk, int64_t first, int64_t last) {
    A *of_scale = chunk ? parts.data() + 2 * n * (chunk - 1) : dscale, *of_bias = chunk ? of_scale + n : dbias;
    if (view.space == 1) {
      const auto run = [&](const auto &some, auto parts, auto own) {
        backward_rows<parts>(view, some, x, own, g, scale, saved, dx, of_scale, of_bias);
      };
      for_rows<2, 2, INT64_MAX>(view, first, last, mask, run, [&](int64_t item) {
        if (dx) std::memset(dx + item * view.row(), 0, view.row() * sizeof(X));
      });
    } else if constexpr (!std::is_same_v<M, RowMask>) {
      for (int64_t item = first; item < last; ++item)
        backward_slab(view, item, x, mask, g, scale, saved, dx, of_scale, of_bias);
    }
  });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    const A *part = parts.data() + 2 * n * (chunk - 1);
    for (int64_t c = 0; c < n; ++c) dscale[c] += part[c], dbias[c] += part[n + c];
  }
}

// Calls body(A(), X()) with the types of the arithmetic and of x. Nothing is thrown beyond it: XLA would not catch it.
template <class Body>
ffi::Error with_types(const View &view, ffi::DataType arithmetic, ffi::DataType x, const Body &body) try {
  if (view.space > 1 && !view.centred)
    return ffi::Error::InvalidArgument("braindnorm has no kernel for what is not centred over space");
  if (arithmetic == ffi::F32 && x == ffi::F32) return body(float(), float());
  if (arithmetic == ffi::F32 && x == ffi::BF16) return body(float(), BFloat16());
  if (arithmetic == ffi::F64 && x == ffi::F64) return body(double(), double());
  return ffi::Error::InvalidArgument("braindnorm has no kernel for these dtypes");
} catch (const std::bad_alloc &) {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "braindnorm: out of memory for the sums of a kernel");
} catch (const std::exception &error) {
  return ffi::Error::Internal(std::string("braindnorm: ") + error.what());
}

View view_of(ffi::Span<const int64_t> lengths, bool centred) {
  const int64_t *n = lengths.begin();
  return {n[0], n[1], n[2], n[3], n[4], centred};
}

template <class T>
T *data(ffi::AnyBuffer buffer) {
  return static_cast<T *>(buffer.untyped_data());
}

// Calls body(mask) with a mask of elements, of rows, or none: `valid` has an entry for each, or no entry at all.
template <class Body>
void with_mask(const View &view, ffi::AnyBuffer valid, const Body &body) {
  const int64_t entries = valid.element_count();
  if (entries == 0) body(Mask<false>{nullptr});
  else if (view.space == 1 && entries == view.items()) body(RowMask{data<uint8_t>(valid)});
  else body(Mask<true>{data<uint8_t>(valid)});
}

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer valid, ffi::AnyBuffer epsilon,
                   ffi::AnyBuffer scale, ffi::AnyBuffer bias, ffi::Result<ffi::AnyBuffer> y,
                   ffi::Result<ffi::AnyBuffer> statistics, ffi::Span<const int64_t> lengths, bool centred) {
  const View view = view_of(lengths, centred);
  return with_types(view, epsilon.element_type(), x.element_type(), [&](auto a, auto b) {
    using A = decltype(a);
    using X = decltype(b);
    const Saved<A> saved{data<A>(*statistics)};
    const auto run = [&](auto mask) {
      forward<A, X>(pool, view, data<X>(x), mask, *data<A>(epsilon), data<A>(scale), data<A>(bias), data<A>(*y), saved);
    };
    with_mask(view, valid, run);
    return ffi::Error::Success();
  });
}

// A dx of no elements is not computed.
ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer valid, ffi::AnyBuffer g,
                    ffi::AnyBuffer scale, ffi::AnyBuffer statistics, ffi::Result<ffi::AnyBuffer> dx,
                    ffi::Result<ffi::AnyBuffer> dscale, ffi::Result<ffi::AnyBuffer> dbias,
                    ffi::Span<const int64_t> lengths, bool centred) {
  const View view = view_of(lengths, centred);
  return with_types(view, g.element_type(), x.element_type(), [&](auto a, auto b) {
    using A = decltype(a);
    using X = decltype(b);
    const Saved<A> saved{data<A>(statistics)};
    X *found = dx->element_count() ? data<X>(*dx) : nullptr;
    const auto run = [&](auto mask) {
      backward<A, X>(pool, view, data<X>(x), mask, data<A>(g), data<A>(scale), saved, found, data<A>(*dscale),
                     data<A>(*dbias));
    };
    with_mask(view, valid, run);
    return ffi::Error::Success();
  });
}

}  // namespace
}  // namespace braindnorm

XLA_FFI_DEFINE_HANDLER_SYMBOL(braindnorm_forward, braindnorm::Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // x
                                  .Arg<ffi::AnyBuffer>()  // valid
                                  .Arg<ffi::AnyBuffer>()  // epsilon
                                  .Arg<ffi::AnyBuffer>()  // scale
                                  .Arg<ffi::AnyBuffer>()  // bias
                                  .Ret<ffi::AnyBuffer>()  // y
                                  .Ret<ffi::AnyBuffer>()  // statistics
                                  .Attr<ffi::Span<const int64_t>>("lengths")
                                  .Attr<bool>("centred"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(braindnorm_backward, braindnorm::Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // x
                                  .Arg<ffi::AnyBuffer>()  // valid
                                  .Arg<ffi::AnyBuffer>()  // g
                                  .Arg<ffi::AnyBuffer>()  // scale
                                  .Arg<ffi::AnyBuffer>()  // statistics
                                  .Ret<ffi::AnyBuffer>()  // dx
                                  .Ret<ffi::AnyBuffer>()  // dscale
                                  .Ret<ffi::AnyBuffer>()  // dbias
                                  .Attr<ffi::Span<const int64_t>>("lengths")
                                  .Attr<bool>("centred"));
