// Groups that are rows: each is normalized while it is in the cache.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "lanes.h"
#include "memory.h"
#include "view.h"

namespace braindnorm {

constexpr int64_t kShort = 512;  // of rows, of which four of two arrays are in the cache of first level

// Rows that are normalized at once, so that none waits for the sums of another; `kApart`, with parameters of their own.
template <int kRows, bool kApart = false>
struct Some {
  int64_t items[kRows], valid[kRows], first[kRows];  // the first of the parameters
};

template <int kParts, int kRows, bool kApart, class A, class X, class M>
BRAINDNORM_INLINE inline void row_statistics(const View &view, const Some<kRows, kApart> &some, const X *x, M mask,
                                             A epsilon, Statistics<A> *found) {
  const int64_t n = view.row();
  int64_t begin[kRows];  // here, so that no store makes it be read again
  double total[kRows] = {}, rest[kRows] = {}, square[kRows] = {}, share[kRows];
  A mean[kRows];
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    begin[r] = some.items[r] * n, share[r] = 1 / static_cast<double>(some.valid[r]);
  });
  if (view.centred) {
    each_block(n, [&](int64_t start, int64_t length) BRAINDNORM_INLINE {
      Sum<A, kParts> sums[kRows];
      each<A, kParts>(length, [&](auto at) BRAINDNORM_INLINE {
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          const int64_t here = begin[r] + start;
          sums[r].add(at, at.keep(mask.from(here), at.get(x + here)));
        });
      });
      repeat<kRows>([&](auto r) BRAINDNORM_INLINE { total[r] += sums[r].total(); });
    });
  }
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE { mean[r] = static_cast<A>(total[r] * share[r]); });
  each_block(n, [&](int64_t start, int64_t length) BRAINDNORM_INLINE {
    Sum<A, kParts> sums[kRows], squares[kRows];
    each<A, kParts>(length, [&](auto at) BRAINDNORM_INLINE {
      repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
        const int64_t here = begin[r] + start;
        const auto d = at.keep(mask.from(here), at.get(x + here) - mean[r]);
        sums[r].add(at, d), squares[r].add(at, d * d);
      });
    });
    repeat<kRows>([&](auto r) BRAINDNORM_INLINE { rest[r] += sums[r].total(), square[r] += squares[r].total(); });
  });
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    const double whole = view.centred ? rest[r] : 0, left = whole * share[r];
    const A variance = static_cast<A>((square[r] - whole * left) * share[r]);
    found[r] = {mean[r], static_cast<A>(left), rstd_of(nonnegative(variance), epsilon)};
  });
}

// Calls body(start, length, channel, each) for the runs of a row: all channels of each element of the space, or the
// tail of each channel. Several rows are one run.
template <int kRows, class Body>
BRAINDNORM_INLINE inline void for_runs(const View &view, const Body &body) {
  if (kRows > 1 || view.tail == 1) {
    for (int64_t s = 0; s < (kRows > 1 ? 1 : view.space); ++s)
      body(s * view.channels, view.channels, int64_t(0), std::true_type());
    return;
  }
  if constexpr (kRows == 1)
    for (int64_t c = 0; c < view.channels; ++c) body(c * view.tail, view.tail, c, std::false_type());
}

template <bool kEach, class A, class At>
BRAINDNORM_INLINE inline auto parameter(const A *p, At at) {
  if constexpr (kEach) return at.get(p);
  else return *p;
}

// How far ahead the rows lie that come next: nowhere, if they are so long that the processor foresees them.
template <int kRows>
int64_t ahead(int64_t n) {
  return kRows * n <= 2 * kBlock ? kRows * n : 0;
}

// Rows with some valid elements each.
template <int kParts, int kRows, bool kApart, class A, class X, class M>
void forward_rows(const View &view, const Some<kRows, kApart> &some, const X *x, M mask, A epsilon, const A *scale,
                  const A *bias, A *y, const Saved<A> &saved, bool is_far) {
  const int64_t n = view.row();
  int64_t begin[kRows], first[kRows];
  Statistics<A> s[kRows];
  row_statistics<kParts>(view, some, x, mask, epsilon, s);
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    begin[r] = some.items[r] * n, first[r] = some.first[r], saved.put(some.items[r], s[r]);
  });
  const int64_t next = ahead<kRows>(n);
  with_flag(is_far, [&](auto far) BRAINDNORM_INLINE {
    for_runs<kRows>(view, [&](int64_t start, int64_t length, int64_t c, auto own) BRAINDNORM_INLINE {
      each<A, 2>(length, [&](auto at) BRAINDNORM_INLINE {
        decltype(parameter<own>(scale, at)) factor{}, offset{};
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          if constexpr (kApart || r == 0) {
            factor = parameter<own>(scale + first[r] + c, at), offset = parameter<own>(bias + first[r] + c, at);
          }
          const int64_t here = begin[r] + start;
          const auto z = ((at.get(x + here) - s[r].mean) - s[r].rest) * s[r].rstd;
          fetch(at, far, x + here + next);
          put(at, far, y + here, at.keep(mask.from(here), z * factor + offset));
        });
      });
    });
  });
}

// What the gradients of a row are made of: z = (x - mean) * rstd - rest, where the rest is in the unit of z, and
// dx = rstd * (g * scale - shift - (x - mean) * slope).
template <class A>
struct Slopes {
  A mean, rest, rstd, shift, slope;

  static Slopes of(const Statistics<A> &s) { return {s.mean, s.rest * s.rstd, s.rstd, A(0), A(0)}; }
  template <class V>
  BRAINDNORM_INLINE V z(V x) const {
    return (x - mean) * rstd - rest;
  }
  // By the means of g * scale, and of g * scale * z.
  void set(A mean_g, A mean_gz) { slope = rstd * mean_gz, shift = mean_g - rest * mean_gz; }
  template <class V, class F>
  BRAINDNORM_INLINE V dx(V x, V g, F scale) const {
    return rstd * ((g * scale - shift) - (x - mean) * slope);
  }
};

// `dx` may be null, where nobody asks for it.
template <int kParts, int kRows, bool kApart, class A, class X, class M>
void backward_rows(const View &view, const Some<kRows, kApart> &some, const X *x, M mask, const A *g, const A *scale,
                   const Saved<A> &saved, X *dx, A *dscale, A *dbias, bool is_far) {
  const int64_t n = view.row();
  int64_t begin[kRows], first[kRows];
  Slopes<A> s[kRows];
  double one[kRows] = {}, two[kRows] = {};  // the sums of g * scale, and of g * scale * z
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    begin[r] = some.items[r] * n, first[r] = some.first[r], s[r] = Slopes<A>::of(saved.get(some.items[r]));
  });
  for_runs<kRows>(view, [&](int64_t start, int64_t length, int64_t c, auto own) BRAINDNORM_INLINE {
    each_block(length, [&](int64_t from, int64_t size) BRAINDNORM_INLINE {
      Sum<A, kParts> of_g[kRows], of_gz[kRows];
      each<A, kParts>(size, [&](auto at) BRAINDNORM_INLINE {
        typename decltype(at)::Value factor{}, sum{}, sum_z{};
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          const int64_t here = begin[r] + start + from, p = first[r] + c + from;
          if constexpr (own && (kApart || r == 0)) {
            factor = at.get(scale + p), sum = at.get(dbias + p), sum_z = at.get(dscale + p);
          }
          const auto z = at.keep(mask.from(here), s[r].z(at.get(x + here)));
          const auto seen = at.keep(mask.from(here), at.get(g + here)), scaled = seen * factor;
          if constexpr (own) sum += seen, sum_z += seen * z, of_g[r].add(at, scaled), of_gz[r].add(at, scaled * z);
          else of_g[r].add(at, seen), of_gz[r].add(at, seen * z);
          if constexpr (own && (kApart || r == kRows - 1)) at.put(dscale + p, sum_z), at.put(dbias + p, sum);
        });
      });
      repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
        const double sum = of_g[r].total(), sum_z = of_gz[r].total();
        const int64_t p = first[r] + c;
        if constexpr (!own) dscale[p] += static_cast<A>(sum_z), dbias[p] += static_cast<A>(sum);
        one[r] += own ? sum : sum * scale[p], two[r] += own ? sum_z : sum_z * scale[p];
      });
    });
  });
  if (!dx) return;
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    const double share = 1 / static_cast<double>(some.valid[r]);
    s[r].set(view.centred ? static_cast<A>(one[r] * share) : A(0), static_cast<A>(two[r] * share));
  });
  const int64_t next = ahead<kRows>(n);
  with_flag(is_far, [&](auto far) BRAINDNORM_INLINE {
    for_runs<kRows>(view, [&](int64_t start, int64_t length, int64_t c, auto own) BRAINDNORM_INLINE {
      each<A, 2>(length, [&](auto at) BRAINDNORM_INLINE {
        decltype(parameter<own>(scale, at)) factor{};
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          if constexpr (kApart || r == 0) factor = parameter<own>(scale + first[r] + c, at);
          const int64_t here = begin[r] + start;
          const auto d = s[r].dx(at.get(x + here), at.get(g + here), factor);
          fetch(at, far, x + here + next), fetch(at, far, g + here + next);
          put(at, far, dx + here, at.keep(mask.from(here), d));
        });
      });
    });
  });
}

// Rows that wait for others of their kind.
template <int kRows, bool kApart>
struct Waiting {
  Some<kRows, kApart> some;
  int count = 0;

  template <class Run>
  void add(const Some<1> &one, const Run &run) {
    some.items[count] = one.items[0], some.valid[count] = one.valid[0], some.first[count] = one.first[0];
    if (++count == kRows) run(some), count = 0;
  }
  template <class Run>
  void flush(const Run &run) const {
    for (int r = 0; r < count; ++r) run(Some<1>{{some.items[r]}, {some.valid[r]}, {some.first[r]}});
  }
};

// Calls run(some, parts, mask) for rows of some valid elements, and skip(item) for those of none. A row that is valid
// throughout needs no mask; a mask of whole rows says which it is. Rows of at most kLongest elements come kRows at once,
// short whole ones kMost. Others come alone, their sums in kParts; so do rows with parameters of their own that are
// valid in part. Sums of a row are in the same parts however many come with it, so that its digits do not depend on the
// others.
template <int kMost, int kRows, int kParts, int64_t kLongest, class M, class Run, class Skip>
void for_rows(const View &view, int64_t first, int64_t last, M mask, const Run &run, const Skip &skip) {
  using Short = std::integral_constant<int, 1>;
  using Long = std::integral_constant<int, kParts>;
  const int64_t n = view.row(), parameters = view.parameters();
  const bool at_once = view.tail == 1 && view.space == 1 && n <= kLongest, apart = view.groups > 1, few = n <= kShort;
  const auto whole = [&](const auto &some) { run(some, Short(), Mask<false>{}); };
  const auto in_part = [&](const auto &some) {
    if constexpr (!std::is_same_v<M, RowMask>) run(some, Short(), mask);
  };
  Waiting<kMost, false> of_short;
  Waiting<kRows, false> of_whole, of_part;
  Waiting<kRows, true> of_groups;
  for (int64_t item = first, p = 0; item < last; ++item, p += view.channels) {
    const int64_t valid = mask.count_row(item, n);
    const Some<1> alone{{item}, {valid}, {p == parameters ? p = 0 : p}};
    if (valid == 0) skip(item);
    else if (at_once && valid == n && apart) of_groups.add(alone, whole);
    else if (at_once && valid == n && few) of_short.add(alone, whole);
    else if (at_once && valid == n) of_whole.add(alone, whole);
    else if (at_once && !apart) of_part.add(alone, in_part);
    else if (valid == n) run(alone, Long(), Mask<false>{});
    else if constexpr (!std::is_same_v<M, RowMask>) run(alone, Long(), mask);
  }
  of_groups.flush(whole), of_short.flush(whole), of_whole.flush(whole), of_part.flush(in_part);
}

}  // namespace braindnorm
