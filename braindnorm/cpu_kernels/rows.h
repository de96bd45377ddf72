// Groups that are rows: each is normalized while it is in the cache.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "lanes.h"
#include "view.h"

namespace braindnorm {

template <class A, class X, class M>
Statistics<A> row_statistics(const X *x, M mask, int64_t n, int64_t valid, bool centred, A epsilon) {
  const double share = 1 / std::max(static_cast<double>(valid), 1.0);
  double total = 0, rest = 0, square = 0;
  if (centred) {
    each_block(n, [&](int64_t start, int64_t length) {
      Sum<A> sum;
      each<A>(length, [&](auto at) { sum.add(at, at.keep(mask.from(start), at.get(x + start))); });
      total += sum.total();
    });
  }
  const A mean = static_cast<A>(total * share);
  each_block(n, [&](int64_t start, int64_t length) {
    Sum<A> sum, squares;
    each<A>(length, [&](auto at) {
      const auto d = at.keep(mask.from(start), at.get(x + start) - mean);
      sum.add(at, d), squares.add(at, d * d);
    });
    rest += sum.total(), square += squares.total();
  });
  rest = centred ? rest * share : 0;
  return {mean, static_cast<A>(rest), rstd_of(std::max(square * share - rest * rest, 0.0), epsilon, valid)};
}

// Calls body(start, length, parameter, each) for the runs of a row: all of it, or the tail of each channel.
template <class Body>
inline void for_runs(const View &view, int64_t first, const Body &body) {
  if (view.tail == 1) return body(int64_t(0), view.channels, first, std::true_type());
  for (int64_t c = 0; c < view.channels; ++c) body(c * view.tail, view.tail, first + c, std::false_type());
}

template <bool kEach, class A, class At>
inline auto parameter(const A *p, At at) {
  if constexpr (kEach) return at.get(p);
  else return *p;
}

// A row with some valid elements. All that it calls is compiled into it, so that sums stay in registers.
template <class A, class X, class M>
[[gnu::flatten]] void forward_valid(const View &view, int64_t item, int64_t valid, const X *x, M mask, A epsilon,
                                    const A *scale, const A *bias, A *y, const Saved<A> &saved) {
  const int64_t n = view.row(), first = item % view.groups * view.channels;
  x += item * n, y += item * n, mask = mask.from(item * n);
  const Statistics<A> s = row_statistics(x, mask, n, valid, view.centred, epsilon);
  saved.put(item, s);
  for_runs(view, first, [&](int64_t start, int64_t length, int64_t p, auto own) {
    each<A>(length, [&](auto at) {
      const auto z = ((at.get(x + start) - s.mean) - s.rest) * s.rstd;
      at.put(y + start, at.keep(mask.from(start), z * parameter<own>(scale + p, at) + parameter<own>(bias + p, at)));
    });
  });
}

template <class A, class X, class M>
[[gnu::flatten]] void backward_valid(const View &view, int64_t item, int64_t valid, const X *x, M mask, const A *g,
                                     const A *scale, const Saved<A> &saved, X *dx, A *dscale, A *dbias) {
  const int64_t n = view.row(), first = item % view.groups * view.channels;
  x += item * n, g += item * n, dx += item * n, mask = mask.from(item * n);
  const Statistics<A> s = saved.get(item);
  double one = 0, two = 0;  // the sums of g * scale, and of g * scale * z
  for_runs(view, first, [&](int64_t start, int64_t length, int64_t p, auto own) {
    each_block(length, [&](int64_t from, int64_t size) {
      const int64_t here = start + from;
      Sum<A> of_g, of_gz;
      each<A>(size, [&](auto at) {
        const auto z = at.keep(mask.from(here), ((at.get(x + here) - s.mean) - s.rest) * s.rstd);
        const auto seen = at.keep(mask.from(here), at.get(g + here));
        if constexpr (own) {
          const auto scaled = seen * at.get(scale + p + from);
          of_g.add(at, scaled), of_gz.add(at, scaled * z);
          at.put(dscale + p + from, at.get(dscale + p + from) + seen * z);
          at.put(dbias + p + from, at.get(dbias + p + from) + seen);
        } else {
          of_g.add(at, seen), of_gz.add(at, seen * z);
        }
      });
      const double sum = of_g.total(), sum_z = of_gz.total();
      if constexpr (own) {
        one += sum, two += sum_z;
      } else {
        dscale[p] += static_cast<A>(sum_z), dbias[p] += static_cast<A>(sum);
        one += sum * scale[p], two += sum_z * scale[p];
      }
    });
  });
  const double share = 1 / static_cast<double>(valid);
  const A shift = view.centred ? static_cast<A>(one * share) : A(0), slope = static_cast<A>(two * share);
  for_runs(view, first, [&](int64_t start, int64_t length, int64_t p, auto own) {
    each<A>(length, [&](auto at) {
      const auto z = ((at.get(x + start) - s.mean) - s.rest) * s.rstd;
      const auto d = s.rstd * (at.get(g + start) * parameter<own>(scale + p, at) - shift - z * slope);
      at.put(dx + start, at.keep(mask.from(start), d));
    });
  });
}

// A row that is valid throughout, or nowhere, needs no mask; a mask of whole rows says which it is.
template <class A, class X, class M>
void forward_row(const View &view, int64_t item, const X *x, M mask, A epsilon, const A *scale, const A *bias, A *y,
                 const Saved<A> &saved) {
  const int64_t n = view.row(), valid = mask.count_row(item, n);
  if (valid == n) {
    forward_valid(view, item, valid, x, Mask<false>{}, epsilon, scale, bias, y, saved);
  } else if (valid == 0) {
    saved.put(item, {});
    std::fill_n(y + item * n, n, A(0));
  } else if constexpr (!std::is_same_v<M, RowMask>) {
    forward_valid(view, item, valid, x, mask, epsilon, scale, bias, y, saved);
  }
}

template <class A, class X, class M>
void backward_row(const View &view, int64_t item, const X *x, M mask, const A *g, const A *scale,
                  const Saved<A> &saved, X *dx, A *dscale, A *dbias) {
  const int64_t n = view.row(), valid = mask.count_row(item, n);
  if (valid == n) {
    backward_valid(view, item, valid, x, Mask<false>{}, g, scale, saved, dx, dscale, dbias);
  } else if (valid == 0) {
    std::memset(dx + item * n, 0, n * sizeof(X));
  } else if constexpr (!std::is_same_v<M, RowMask>) {
    backward_valid(view, item, valid, x, mask, g, scale, saved, dx, dscale, dbias);
  }
}

}  // namespace braindnorm
