// Columns of matrices: each is normalized by itself, and its elements lie a row apart.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "grid.h"
#include "lanes.h"
#include "view.h"

namespace braindnorm {

// How many valid elements the columns have, their mean, and the sum of squared deviations from it. There is one count
// for all of them, unless a mask has an entry for each element.
struct Moments {
  double *count, *mean, *m2;
};

template <class M>
constexpr bool kOfEach = std::is_same_v<M, Mask<true>>;

// What is not finite is 0.
template <class V>
BRAINDNORM_INLINE inline V finite(V v) {
  return v - v == 0 ? v : V{};
}

// A mean that a step brings nearer to another one: where one of the two is not finite, their sum, which is neither.
template <class V>
BRAINDNORM_INLINE inline V moved(V mean, V other, V step) {
  return mean + (step - step == 0 ? step : other);
}

// Chan, Golub and LeVeque 1979.
template <bool kEach>
void merge(const Moments &to, const Moments &from, int64_t width) {
  if constexpr (kEach) {
    for (int64_t c = 0; c < width; ++c) {
      if (from.count[c] == 0) continue;
      const double n = to.count[c] + from.count[c], share = from.count[c] / n, step = from.mean[c] - to.mean[c];
      const double apart = to.count[c] == 0 ? 0 : step * step * (to.count[c] * share);
      to.count[c] = n, to.mean[c] = moved(to.mean[c], from.mean[c], step * share), to.m2[c] += from.m2[c] + apart;
    }
  } else if (to.count[0] == 0) {
    to.count[0] = from.count[0];
    std::copy_n(from.mean, width, to.mean), std::copy_n(from.m2, width, to.m2);
  } else if (from.count[0] > 0) {
    const double n = to.count[0] + from.count[0], share = from.count[0] / n, weight = to.count[0] * share;
    to.count[0] = n;
    each<double, 1>(width, [&](auto at) BRAINDNORM_INLINE {
      const auto step = at.get(from.mean) - at.get(to.mean);
      at.put(to.mean, moved(at.get(to.mean), at.get(from.mean), step * share));
      at.put(to.m2, at.get(to.m2) + at.get(from.m2) + step * step * weight);
    });
  }
}

// Arrays of a tile's width, made once a task.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t width) : width_(width), memory_(new double[(kDoubles + kOwn) * width]) {}
  double *of_double(int i) const { return memory_.get() + i * width_; }
  A *operator[](int i) const { return reinterpret_cast<A *>(memory_.get() + kDoubles * width_) + i * width_; }
  Moments moments(int first) const { return {of_double(first), of_double(first + 1), of_double(first + 2)}; }

 private:
  static constexpr int kDoubles = 6, kOwn = 4;
  int64_t width_;
  std::unique_ptr<double[]> memory_;
};

// What is kept of each column: an array of each.
template <class A>
struct Kept {
  A *mean, *rest, *rstd, *var, *count;
  Kept(A *all, const Grid &grid, int64_t item, int64_t column) {
    all += 5 * item * grid.columns + column;
    mean = all, rest = mean + grid.columns, rstd = rest + grid.columns, var = rstd + grid.columns,
    count = var + grid.columns;
  }
};

// The sums of x - pivot, and of its square, along the columns of a block.
template <class A, class X, class M>
void sums_about(const Rows &rows, const Part &part, const X *x, M mask, const A *pivot, A *sum, A *square, A *count) {
  std::fill_n(sum, part.width, A(0)), std::fill_n(square, part.width, A(0));
  if constexpr (kOfEach<M>) std::fill_n(count, part.width, A(0));
  at_once(rows, part, [&](auto some) BRAINDNORM_INLINE {
    each<A, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
      const auto centre = at.get(pivot), zero = typename decltype(at)::Value{};
      auto one = at.get(sum), two = at.get(square), valid = kOfEach<M> ? at.get(count) : zero;
      repeat<decltype(some)::count>([&](auto r) BRAINDNORM_INLINE {
        const auto here = mask.from(some.begin[r]);
        some.fetch(x + some.begin[r], at.j);
        const auto d = at.keep(here, at.get(x + some.begin[r]) - centre);
        one += d, two += d * d;
        if constexpr (kOfEach<M>) valid += at.keep(here, zero + 1);
      });
      at.put(sum, one), at.put(square, two);
      if constexpr (kOfEach<M>) at.put(count, valid);
    });
  });
}

// The moments by sums about a pivot.
template <bool kEach, class A>
void moments_by_sums(const Moments &found, int64_t width, double n, const A *pivot, const A *sum, const A *square,
                     const A *count) {
  const double share = 1 / n;
  if constexpr (!kEach) found.count[0] = n;
  each<double, 1>(width, [&](auto at) BRAINDNORM_INLINE {
    const auto all = at.widened(sum);
    auto left = all * share;
    if constexpr (kEach) {
      const auto valid = at.widened(count);
      at.put(found.count, valid), left = all / (valid < 1 ? valid + 1 : valid);
    }
    at.put(found.mean, at.widened(pivot) + left);
    at.put(found.m2, nonnegative(at.widened(square) - left * all));
  });
}

// The moments of a segment of a tile. The pivot of a block is the mean of the one before it, or to begin with that of a
// few rows: if that is far off, the variance of the column is as large. Where a mask has an entry for each element, a
// column may have nothing valid in those, and each block has a pivot of its own.
template <class A, class X, class M>
void moments_of(const Part &part, const X *x, M mask, const Scratch<A> &scratch, const Moments &found) {
  constexpr bool kEach = kOfEach<M>;
  A *pivot = scratch[0], *sum = scratch[1], *square = scratch[2], *count = scratch[3];
  const Moments block = scratch.moments(0);
  bool first = true;
  std::fill_n(found.count, kEach ? part.width : 1, 0.0);
  std::fill_n(found.mean, part.width, 0.0), std::fill_n(found.m2, part.width, 0.0);
  for_blocks(part, mask, [&](const Rows &rows, auto within) {
    if (kEach || first) {
      Rows some = rows;
      some.count = kEach ? rows.count : std::min(rows.count, 8);
      std::fill_n(pivot, part.width, A(0));
      sums_about(some, part, x, within, pivot, sum, square, count);
      moments_by_sums<kEach>(block, part.width, some.count, pivot, sum, square, count);
    }
    each<double, 1>(part.width, [&](auto at) BRAINDNORM_INLINE { at.narrowed(pivot, finite(at.get(block.mean))); });
    sums_about(rows, part, x, within, pivot, sum, square, count);
    moments_by_sums<kEach>(block, part.width, rows.count, pivot, sum, square, count);
    merge<kEach>(found, block, part.width);
    first = false;
  });
}

// The mean is kept in two parts, the second of which is what rounding took from the first.
template <bool kEach, class A>
void keep(const Moments &found, int64_t width, A epsilon, const Kept<A> &kept) {
  const double all = found.count[0], share = 1 / std::max(all, 1.0);
  each<double, 1>(width, [&](auto at) BRAINDNORM_INLINE {
    using V = typename decltype(at)::Value;
    at.narrowed(kept.mean, at.get(found.mean));
    at.narrowed(kept.rest, finite(at.get(found.mean) - at.widened(kept.mean)));
    const auto n = kEach ? at.get(found.count) : V{} + all;
    at.narrowed(kept.count, n);
    at.narrowed(kept.var, at.get(found.m2) * (kEach ? 1 / (n < 1 ? V{} + 1 : n) : V{} + share));
  });
  each<A, 1>(width, [&](auto at) BRAINDNORM_INLINE {
    using V = typename decltype(at)::Value;
    const auto total = at.get(kept.var) + epsilon;
    const auto r = 1 / root(total <= 0 ? V{} + 1 : total);
    at.put(kept.rstd, (total <= 0) | (at.get(kept.count) <= 0) ? V{} : r);
  });
}

// y = (x - mean) * factor + offset
template <class A, class X, class M>
void normalize(const Part &part, const X *x, M mask, const Kept<A> &kept, const A *scale, const A *bias, A *y,
               const Scratch<A> &scratch) {
  A *factor = scratch[0], *offset = scratch[1];
  each<A, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
    const auto slope = at.get(kept.rstd) * at.get(scale + part.column);
    at.put(factor, slope), at.put(offset, at.get(bias + part.column) - at.get(kept.rest) * slope);
  });
  clear_masked(part, mask, y);
  for_blocks(part, mask, [&](const Rows &rows, auto within) {
    with_flag(part.far, [&](auto far) BRAINDNORM_INLINE {
      at_once(rows, part, [&](auto some) BRAINDNORM_INLINE {
        each<A, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
          const auto mean = at.get(kept.mean), slope = at.get(factor), shift = at.get(offset);
          repeat<decltype(some)::count>([&](auto r) BRAINDNORM_INLINE {
            some.fetch(x + some.begin[r], at.j);
            const auto v = (at.get(x + some.begin[r]) - mean) * slope + shift;
            put(at, far, y + some.begin[r], at.keep(within.from(some.begin[r]), v));
          });
        });
      });
    });
  });
}

// The sums of g, and of g * z, along each column of a segment.
template <class A, class X, class M>
void sums_of(const Part &part, const X *x, M mask, const A *g, const Kept<A> &kept, const Scratch<A> &scratch,
             double *one, double *two) {
  A *sum = scratch[0], *sum_z = scratch[1];
  std::fill_n(one, part.width, 0.0), std::fill_n(two, part.width, 0.0);
  for_blocks(part, mask, [&](const Rows &rows, auto within) {
    std::fill_n(sum, part.width, A(0)), std::fill_n(sum_z, part.width, A(0));
    at_once(rows, part, [&](auto some) BRAINDNORM_INLINE {
      each<A, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
        const auto mean = at.get(kept.mean), rest = at.get(kept.rest), rstd = at.get(kept.rstd);
        auto all = at.get(sum), all_z = at.get(sum_z);
        repeat<decltype(some)::count>([&](auto r) BRAINDNORM_INLINE {
          const auto valid = within.from(some.begin[r]);
          some.fetch(x + some.begin[r], at.j), some.fetch(g + some.begin[r], at.j);
          const auto z = at.keep(valid, ((at.get(x + some.begin[r]) - mean) - rest) * rstd);
          const auto seen = at.keep(valid, at.get(g + some.begin[r]));
          all += seen, all_z += seen * z;
        });
        at.put(sum, all), at.put(sum_z, all_z);
      });
    });
    each<double, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
      at.put(one, at.get(one) + at.widened(sum)), at.put(two, at.get(two) + at.widened(sum_z));
    });
  });
}

// dx = slope * g - shift - slope_z * z, by the sums along whole columns.
template <class A, class X, class M>
void gradient_of(const Part &part, const X *x, M mask, const A *g, const Kept<A> &kept, const A *scale,
                 const double *one, const double *two, X *dx, const Scratch<A> &scratch) {
  A *slopes = scratch[0], *slopes_z = scratch[1], *shifts = scratch[2];
  for (int64_t c = 0; c < part.width; ++c) {
    const double share = 1 / std::max(static_cast<double>(kept.count[c]), 1.0);
    slopes[c] = kept.rstd[c] * scale[part.column + c];
    shifts[c] = slopes[c] * static_cast<A>(one[c] * share), slopes_z[c] = slopes[c] * static_cast<A>(two[c] * share);
  }
  clear_masked(part, mask, dx);
  for_blocks(part, mask, [&](const Rows &rows, auto within) {
    with_flag(part.far, [&](auto far) BRAINDNORM_INLINE {
      at_once(rows, part, [&](auto some) BRAINDNORM_INLINE {
        each<A, 1>(part.width, [&](auto at) BRAINDNORM_INLINE {
          const auto mean = at.get(kept.mean), rest = at.get(kept.rest), rstd = at.get(kept.rstd);
          const auto slope = at.get(slopes), slope_z = at.get(slopes_z), shift = at.get(shifts);
          repeat<decltype(some)::count>([&](auto r) BRAINDNORM_INLINE {
            const int64_t here = some.begin[r];
            some.fetch(x + here, at.j), some.fetch(g + here, at.j);
            const auto z = ((at.get(x + here) - mean) - rest) * rstd;
            const auto d = slope * at.get(g + here) - shift - slope_z * z;
            put(at, far, dx + here, at.keep(within.from(here), d));
          });
        });
      });
    });
  });
}

}  // namespace braindnorm
