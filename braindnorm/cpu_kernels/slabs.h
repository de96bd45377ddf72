// Groups over space whose channels come last: all groups of one element of the batch at once. They are centred.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "lanes.h"
#include "memory.h"
#include "view.h"

namespace braindnorm {

// An element of the batch with no more elements than this is fetched while the one before it is written.
constexpr int64_t kAhead = 65536;

// Calls body(row, how many) for rows four at once, if asked to, and for each of those that are left.
template <class Body>
BRAINDNORM_INLINE inline void at_once(int64_t first, int64_t last, bool four, const Body &body) {
  for (; four && first + 4 <= last; first += 4) body(first, std::integral_constant<int, 4>());
  for (; first < last; ++first) body(first, std::integral_constant<int, 1>());
}

// Sums of each channel along the space; those of a group are added afterwards.
template <class A>
struct Columns {
  std::vector<A> part, part_two;
  std::vector<double> total, total_two, count;
  bool four;  // rows at once: several of two arrays come later from memory than one after another
  Columns(int64_t n, bool several) : part(n), part_two(n), total(n), total_two(n), count(n), four(several) {}

  // Calls term(at, row, part, part_two) for every row of channels, which adds to the two; they are added up in double.
  template <class Term>
  BRAINDNORM_INLINE void add(int64_t space, const Term &term) {
    const int64_t n = part.size();
    std::fill(total.begin(), total.end(), 0), std::fill(total_two.begin(), total_two.end(), 0);
    for (int64_t start = 0; start < space; start += 64) {
      std::fill(part.begin(), part.end(), A(0)), std::fill(part_two.begin(), part_two.end(), A(0));
      at_once(start, std::min(space, start + 64), four, [&](int64_t s, auto count) BRAINDNORM_INLINE {
        each<A, 1>(n, [&](auto at) BRAINDNORM_INLINE {
          auto one = at.get(part.data()), two = at.get(part_two.data());
          repeat<count>([&](auto r) BRAINDNORM_INLINE { term(at, (s + r) * n, one, two); });
          at.put(part.data(), one), at.put(part_two.data(), two);
        });
      });
      for (int64_t c = 0; c < n; ++c) total[c] += part[c], total_two[c] += part_two[c];
    }
  }

  template <bool kMasked>
  void count_valid(Mask<kMasked> mask, int64_t space) {
    if constexpr (kMasked) {
      add(space, [&](auto at, int64_t row, auto &one, auto &) BRAINDNORM_INLINE {
        one += at.keep(mask.from(row), typename decltype(at)::Value{} + 1);
      });
      count = total;
    } else {
      std::fill(count.begin(), count.end(), static_cast<double>(space));
    }
  }

  // Calls body(group, its first channel, how many elements it has) for each group.
  template <class Body>
  void each_group(const View &view, const Body &body) const {
    for (int64_t g = 0, first = 0; g < view.groups; ++g, first += view.channels)
      body(g, first, sum(count, first, view));
  }

  static double sum(const std::vector<double> &v, int64_t first, const View &view) {
    double all = 0;
    for (int64_t c = first; c < first + view.channels; ++c) all += v[c];
    return all;
  }
};

template <class A, class X, bool kMasked>
void forward_slab(const View &view, int64_t item, const X *x, Mask<kMasked> mask, A epsilon,
                                   const A *scale, const A *bias, A *y, const Saved<A> &saved, bool far) {
  const int64_t n = view.parameters(), size = view.item_size(), soon = std::max<int64_t>(4, 2048 / n) * n;
  x += item * size, y += item * size, mask = mask.from(item * size);
  Columns<A> columns(n, true);
  std::vector<A> means(n), rests(n), factors(n);
  A *mean = means.data(), *rest = rests.data(), *factor = factors.data();
  columns.count_valid(mask, view.space);
  columns.add(view.space, [&](auto at, int64_t row, auto &one, auto &) BRAINDNORM_INLINE {
    fetch(at, true, x + row + soon);
    one += at.keep(mask.from(row), at.get(x + row));
  });
  columns.each_group(view, [&](int64_t, int64_t first, double count) {
    const double found = columns.sum(columns.total, first, view) / std::max(count, 1.0);
    std::fill_n(mean + first, view.channels, static_cast<A>(found));
  });
  columns.add(view.space, [&](auto at, int64_t row, auto &one, auto &two) BRAINDNORM_INLINE {
    fetch(at, true, x + row + soon);
    const auto d = at.keep(mask.from(row), at.get(x + row) - at.get(mean));
    one += d, two += d * d;
  });
  columns.each_group(view, [&](int64_t g, int64_t first, double count) {
    const double left = columns.sum(columns.total, first, view) / std::max(count, 1.0);
    const double square = columns.sum(columns.total_two, first, view) / std::max(count, 1.0);
    const A rstd = count > 0 ? rstd_of(static_cast<A>(std::max(square - left * left, 0.0)), epsilon) : A(0);
    saved.put(item * view.groups + g, {mean[first], static_cast<A>(left), rstd});
    std::fill_n(rest + first, view.channels, static_cast<A>(left));
    for (int64_t c = first; c < first + view.channels; ++c) factor[c] = rstd * scale[c];
  });
  const int64_t next = size <= kAhead ? size : soon;
  at_once(0, view.space, true, [&](int64_t s, auto count) BRAINDNORM_INLINE {
    each<A, 1>(n, [&](auto at) BRAINDNORM_INLINE {
      const auto centre = at.get(mean), left = at.get(rest), slope = at.get(factor), offset = at.get(bias);
      repeat<count>([&](auto r) BRAINDNORM_INLINE {
        const int64_t row = (s + r) * n;
        const auto d = (at.get(x + row) - centre) - left;
        fetch(at, far, x + row + next);
        put(at, far, y + row, at.keep(mask.from(row), d * slope + offset));
      });
    });
  });
}

template <class A, class X, bool kMasked>
void backward_slab(const View &view, int64_t item, const X *x, Mask<kMasked> mask, const A *g,
                                    const A *scale, const Saved<A> &saved, X *dx, A *dscale, A *dbias, bool far) {
  const int64_t n = view.parameters(), size = view.item_size();
  x += item * size, g += item * size, mask = mask.from(item * size);
  if (dx) dx += item * size;
  Columns<A> columns(n, size <= kAhead);
  // dx = slope_g * g - shift - slope_z * z
  std::vector<A> means(n), rests(n), rstds(n), slopes_g(n), slopes_z(n), shifts(n);
  A *mean = means.data(), *rest = rests.data(), *rstd = rstds.data();
  A *slope_g = slopes_g.data(), *slope_z = slopes_z.data(), *shift = shifts.data();
  for (int64_t c = 0; c < n; ++c) {
    const Statistics<A> s = saved.get(item * view.groups + c / view.channels);
    mean[c] = s.mean, rest[c] = s.rest, rstd[c] = s.rstd;
  }
  columns.count_valid(mask, view.space);
  columns.add(view.space, [&](auto at, int64_t row, auto &one, auto &two) BRAINDNORM_INLINE {
    const auto z = ((at.get(x + row) - at.get(mean)) - at.get(rest)) * at.get(rstd);
    const auto seen = at.keep(mask.from(row), at.get(g + row));
    one += seen, two += seen * at.keep(mask.from(row), z);
  });
  columns.each_group(view, [&](int64_t, int64_t first, double count) {
    double one = 0, two = 0;
    for (int64_t c = first; c < first + view.channels; ++c) {
      one += columns.total[c] * scale[c], two += columns.total_two[c] * scale[c];
      dbias[c] += static_cast<A>(columns.total[c]), dscale[c] += static_cast<A>(columns.total_two[c]);
    }
    for (int64_t c = first; c < first + view.channels; ++c) {
      slope_g[c] = rstd[c] * scale[c];
      slope_z[c] = static_cast<A>(rstd[c] * (two / std::max(count, 1.0)));
      shift[c] = static_cast<A>(rstd[c] * (one / std::max(count, 1.0)));
    }
  });
  if (!dx) return;
  at_once(0, view.space, columns.four, [&](int64_t s, auto count) BRAINDNORM_INLINE {
    each<A, 1>(n, [&](auto at) BRAINDNORM_INLINE {
      const auto centre = at.get(mean), left = at.get(rest), inverse = at.get(rstd);
      const auto slope = at.get(slope_g), slope_of_z = at.get(slope_z), offset = at.get(shift);
      repeat<count>([&](auto r) BRAINDNORM_INLINE {
        const int64_t row = (s + r) * n;
        const auto z = ((at.get(x + row) - centre) - left) * inverse;
        const auto d = slope * at.get(g + row) - offset - slope_of_z * z;
        if constexpr (count == 4) fetch(at, far, x + row + size), fetch(at, far, g + row + size);
        put(at, far, dx + row, at.keep(mask.from(row), d));
      });
    });
  });
}

}  // namespace braindnorm
