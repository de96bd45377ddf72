// Norms of rows, of groups over space and of columns for XLA on a CPU: the value, and the gradient of a cotangent.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "matrices.h"
#include "memory.h"
#include "parallel.h"
#include "rows.h"
#include "sets.h"
#include "short_gradients.h"
#include "short_rows.h"
#include "slabs.h"
#include "xla/ffi/api/ffi.h"

namespace braindnorm {
namespace {

// Calls run(chunk, first, last) for the items of each chunk, which has `size` of them.
template <class Run>
void for_chunks(Threads threads, const View &view, int64_t size, const Run &run) {
  in_parallel(threads, (view.items() + size - 1) / size, [&](int64_t chunk) {
    run(chunk, chunk * size, std::min(view.items(), (chunk + 1) * size));
    end_streams();
  });
}

// Adds those with something valid in them; none is valid in part.
template <class M, class Rows, class Skip>
void for_short_rows(const View &view, int64_t first, int64_t last, M mask, Rows &rows, const Skip &skip) {
  for (int64_t item = first, p = 0; item < last; ++item, p += view.channels) {
    if (p == view.parameters()) p = 0;
    if (mask.count_row(item, view.row())) rows.add(item, p);
    else skip(item);
  }
  rows.finish();
}

template <class A, class X, class M>
void forward_groups(Threads threads, const View &view, const X *x, M mask, A epsilon, const A *scale,
                    const A *bias, A *y, A *statistics) {
  const Saved<A> saved{statistics};
  const int64_t n = view.row();
  const bool far = is_far<A>(view.size() * (sizeof *x + sizeof *y), y, view.run());
  for_chunks(threads, view, view.items_in_chunk(0), [&](int64_t, int64_t first, int64_t last) {
    const auto clear = [&](int64_t item) {
      saved.put(item, {});
      clear_row<A>(y + item * n, n, far);
    };
    if (!std::is_same_v<M, Mask<true>> && ShortRows<A, X>::fit(view)) {
      ShortRows<A, X> rows(view, x, epsilon, scale, bias, y, saved, far);
      for_short_rows(view, first, last, mask, rows, clear);
    } else if (!view.slabs()) {
      const auto run = [&](const auto &some, auto parts, auto own) {
        forward_rows<parts>(view, some, x, own, epsilon, scale, bias, y, saved, far);
      };
      for_rows<4, 4, 4, kBlock>(view, first, last, mask, run, clear);
    } else if constexpr (!std::is_same_v<M, RowMask>) {
      for (int64_t item = first; item < last; ++item)
        forward_slab(view, item, x, mask, epsilon, scale, bias, y, saved, far);
    }
  });
}

// Every chunk has sums of its own for the parameters, which are added in the order of the chunks: the result does not
// depend on which thread did what. It has some rows at least, so that these sums cost little.
template <class A, class X, class M>
void backward_groups(Threads threads, const View &view, const X *x, M mask, const A *g, const A *scale,
                     A *statistics, X *dx, A *dscale, A *dbias) {
  const Saved<A> saved{statistics};
  const int64_t n = view.parameters(), size = view.items_in_chunk(8 * n), chunks = (view.items() + size - 1) / size;
  std::vector<A> parts(2 * n * (chunks - 1));
  const bool far = is_far<A>(view.size() * (sizeof *x + sizeof *g + sizeof *dx), dx, view.run());
  std::fill_n(dscale, n, A(0)), std::fill_n(dbias, n, A(0));
  for_chunks(threads, view, size, [&](int64_t chunk, int64_t first, int64_t last) {
    A *of_scale = chunk ? parts.data() + 2 * n * (chunk - 1) : dscale, *of_bias = chunk ? of_scale + n : dbias;
    const auto clear = [&](int64_t item) {
      if (dx) clear_row<A>(dx + item * view.row(), view.row(), far);
    };
    if (!std::is_same_v<M, Mask<true>> && ShortRows<A, X>::fit(view)) {
      ShortGradients<A, X> rows(view, x, g, scale, saved, dx, of_scale, of_bias, far);
      for_short_rows(view, first, last, mask, rows, clear);
    } else if (!view.slabs()) {
      const auto run = [&](const auto &some, auto parts, auto own) {
        backward_rows<parts>(view, some, x, own, g, scale, saved, dx, of_scale, of_bias, far);
      };
      for_rows<4, 2, 2, INT64_MAX>(view, first, last, mask, run, clear);
    } else if constexpr (!std::is_same_v<M, RowMask>) {
      for (int64_t item = first; item < last; ++item)
        backward_slab(view, item, x, mask, g, scale, saved, dx, of_scale, of_bias, far);
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
  if (view.slabs() && !view.centred)
    return ffi::Error::InvalidArgument("braindnorm has no kernel for groups over space that are not centred");
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
void with_mask(ffi::AnyBuffer valid, bool of_rows, const Body &body) {
  if (valid.element_count() == 0) body(Mask<false>{nullptr});
  else if (of_rows) body(RowMask{data<uint8_t>(valid)});
  else body(Mask<true>{data<uint8_t>(valid)});
}

// Of rows or slabs, or of columns.
template <bool kColumns>
ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer valid, ffi::AnyBuffer epsilon,
                   ffi::AnyBuffer scale, ffi::AnyBuffer bias, ffi::Result<ffi::AnyBuffer> y,
                   ffi::Result<ffi::AnyBuffer> statistics, ffi::Span<const int64_t> lengths, bool centred) {
  const View view = view_of(lengths, centred);
  return with_types(view, epsilon.element_type(), x.element_type(), [&](auto a, auto b) {
    using A = decltype(a);
    using X = decltype(b);
    const int64_t entries = static_cast<int64_t>(valid.element_count()) / lengths[5];
    const auto run = [&](auto mask) {
      using M = decltype(mask);
      const auto forward = kColumns ? forward_columns<A, X, M> : forward_groups<A, X, M>;
      const A *epsilons = data<A>(epsilon);
      for_sets(&pool, view, lengths[5], !kColumns && alike(epsilons, lengths[5]), [&](auto threads, auto some, auto at) {
        forward(threads, some, data<X>(x) + at.element, M{mask.valid + at.set * entries}, epsilons[at.set],
                data<A>(scale) + at.parameter, data<A>(bias) + at.parameter, data<A>(*y) + at.element,
                data<A>(*statistics) + (kColumns ? 5 : 3) * at.group);
      });
    };
    with_mask(valid, static_cast<int64_t>(valid.element_count()) == view.rows(kColumns), run);
    return ffi::Error::Success();
  });
}

// A dx of no elements is not computed.
template <bool kColumns>
ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer valid, ffi::AnyBuffer g,
                    ffi::AnyBuffer scale, ffi::AnyBuffer statistics, ffi::Result<ffi::AnyBuffer> dx,
                    ffi::Result<ffi::AnyBuffer> dscale, ffi::Result<ffi::AnyBuffer> dbias,
                    ffi::Span<const int64_t> lengths, bool centred) {
  const View view = view_of(lengths, centred);
  return with_types(view, g.element_type(), x.element_type(), [&](auto a, auto b) {
    using A = decltype(a);
    using X = decltype(b);
    const int64_t entries = static_cast<int64_t>(valid.element_count()) / lengths[5];
    X *found = dx->element_count() ? data<X>(*dx) : nullptr;
    const auto run = [&](auto mask) {
      using M = decltype(mask);
      const auto backward = kColumns ? backward_columns<A, X, M> : backward_groups<A, X, M>;
      for_sets(&pool, view, lengths[5], !kColumns, [&](auto threads, auto some, auto at) {
        backward(threads, some, data<X>(x) + at.element, M{mask.valid + at.set * entries}, data<A>(g) + at.element,
                 data<A>(scale) + at.parameter, data<A>(statistics) + (kColumns ? 5 : 3) * at.group,
                 found ? found + at.element : nullptr, data<A>(*dscale) + at.parameter, data<A>(*dbias) + at.parameter);
      });
    };
    with_mask(valid, static_cast<int64_t>(valid.element_count()) == view.rows(kColumns), run);
    return ffi::Error::Success();
  });
}

}  // namespace
}  // namespace braindnorm

#define BRAINDNORM_FORWARD(name, columns)                                      \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, braindnorm::Forward<columns>,            \
                                ffi::Ffi::Bind()                               \
                                    .Ctx<ffi::ThreadPool>()                    \
                                    .Arg<ffi::AnyBuffer>() /* x */             \
                                    .Arg<ffi::AnyBuffer>() /* valid */         \
                                    .Arg<ffi::AnyBuffer>() /* epsilon */       \
                                    .Arg<ffi::AnyBuffer>() /* scale */         \
                                    .Arg<ffi::AnyBuffer>() /* bias */          \
                                    .Ret<ffi::AnyBuffer>() /* y */             \
                                    .Ret<ffi::AnyBuffer>() /* statistics */    \
                                    .Attr<ffi::Span<const int64_t>>("lengths") \
                                    .Attr<bool>("centred"))
#define BRAINDNORM_BACKWARD(name, columns)                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, braindnorm::Backward<columns>,           \
                                ffi::Ffi::Bind()                               \
                                    .Ctx<ffi::ThreadPool>()                    \
                                    .Arg<ffi::AnyBuffer>() /* x */             \
                                    .Arg<ffi::AnyBuffer>() /* valid */         \
                                    .Arg<ffi::AnyBuffer>() /* g */             \
                                    .Arg<ffi::AnyBuffer>() /* scale */         \
                                    .Arg<ffi::AnyBuffer>() /* statistics */    \
                                    .Ret<ffi::AnyBuffer>() /* dx */            \
                                    .Ret<ffi::AnyBuffer>() /* dscale */        \
                                    .Ret<ffi::AnyBuffer>() /* dbias */         \
                                    .Attr<ffi::Span<const int64_t>>("lengths") \
                                    .Attr<bool>("centred"))

BRAINDNORM_FORWARD(braindnorm_forward, false);
BRAINDNORM_BACKWARD(braindnorm_backward, false);
BRAINDNORM_FORWARD(braindnorm_forward_columns, true);
BRAINDNORM_BACKWARD(braindnorm_backward_columns, true);
