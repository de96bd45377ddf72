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

// Rows that are normalized at once, so that none waits for the sums of another.
template <int kRows>
struct Some {
  int64_t items[kRows], valid[kRows];
};

template <int kParts, int kRows, class A, class X, class M>
BRAINDNORM_INLINE inline void row_statistics(const View &view, const Some<kRows> &some, const X *x, M mask, A epsilon,
                                             Statistics<A> *found) {
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
    const double left = view.centred ? rest[r] * share[r] : 0, variance = square[r] * share[r] - left * left;
    found[r] = {mean[r], static_cast<A>(left), rstd_of(std::max(variance, 0.0), epsilon, some.valid[r])};
  });
}

// Calls body(start, length, parameter, each) for the runs of a row: all of it, or the tail of each channel. Several rows
// have the same parameters, and are one run.
template <int kRows, class Body>
BRAINDNORM_INLINE inline void for_runs(const View &view, int64_t item, const Body &body) {
  const int64_t first = item % view.groups * view.channels;
  if (kRows > 1 || view.tail == 1) return body(int64_t(0), view.channels, first, std::true_type());
  if constexpr (kRows == 1)
    for (int64_t c = 0; c < view.channels; ++c) body(c * view.tail, view.tail, first + c, std::false_type());
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
template <int kParts, int kRows, class A, class X, class M>
void forward_rows(const View &view, const Some<kRows> &some, const X *x, M mask, A epsilon, const A *scale,
                  const A *bias, A *y, const Saved<A> &saved, bool is_far) {
  const int64_t n = view.row();
  int64_t begin[kRows];
  Statistics<A> s[kRows];
  row_statistics<kParts>(view, some, x, mask, epsilon, s);
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE { begin[r] = some.items[r] * n, saved.put(some.items[r], s[r]); });
  const int64_t next = ahead<kRows>(n);
  with_flag(is_far, [&](auto far) BRAINDNORM_INLINE {
    for_runs<kRows>(view, some.items[0], [&](int64_t start, int64_t length, int64_t p, auto own) BRAINDNORM_INLINE {
      each<A, 2>(length, [&](auto at) BRAINDNORM_INLINE {
        const auto factor = parameter<own>(scale + p, at), offset = parameter<own>(bias + p, at);
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          const int64_t here = begin[r] + start;
          const auto z = ((at.get(x + here) - s[r].mean) - s[r].rest) * s[r].rstd;
          fetch<far>(at, x + here + next);
          put<far>(at, y + here, at.keep(mask.from(here), z * factor + offset));
        });
      });
    });
  });
}

// `dx` may be null, where nobody asks for it.
template <int kParts, int kRows, class A, class X, class M>
void backward_rows(const View &view, const Some<kRows> &some, const X *x, M mask, const A *g, const A *scale,
                   const Saved<A> &saved, X *dx, A *dscale, A *dbias, bool is_far) {
  const int64_t n = view.row();
  int64_t begin[kRows];
  Statistics<A> s[kRows];
  double one[kRows] = {}, two[kRows] = {};  // the sums of g * scale, and of g * scale * z
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE { begin[r] = some.items[r] * n, s[r] = saved.get(some.items[r]); });
  for_runs<kRows>(view, some.items[0], [&](int64_t start, int64_t length, int64_t p, auto own) BRAINDNORM_INLINE {
    each_block(length, [&](int64_t from, int64_t size) BRAINDNORM_INLINE {
      Sum<A, kParts> of_g[kRows], of_gz[kRows];
      each<A, kParts>(size, [&](auto at) BRAINDNORM_INLINE {
        const auto factor = parameter<own>(scale + p + from * own, at);
        auto sum = parameter<own>(dbias + p + from * own, at), sum_z = parameter<own>(dscale + p + from * own, at);
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          const int64_t here = begin[r] + start + from;
          const auto z = at.keep(mask.from(here), ((at.get(x + here) - s[r].mean) - s[r].rest) * s[r].rstd);
          const auto seen = at.keep(mask.from(here), at.get(g + here)), scaled = seen * factor;
          if constexpr (own) sum += seen, sum_z += seen * z, of_g[r].add(at, scaled), of_gz[r].add(at, scaled * z);
          else of_g[r].add(at, seen), of_gz[r].add(at, seen * z);
        });
        if constexpr (own) at.put(dscale + p + from, sum_z), at.put(dbias + p + from, sum);
      });
      repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
        const double sum = of_g[r].total(), sum_z = of_gz[r].total();
        if constexpr (!own) dscale[p] += static_cast<A>(sum_z), dbias[p] += static_cast<A>(sum);
        one[r] += own ? sum : sum * scale[p], two[r] += own ? sum_z : sum_z * scale[p];
      });
    });
  });
  if (!dx) return;
  A shift[kRows], slope[kRows];
  repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
    const double share = 1 / static_cast<double>(some.valid[r]);
    shift[r] = view.centred ? static_cast<A>(one[r] * share) : A(0), slope[r] = static_cast<A>(two[r] * share);
  });
  const int64_t next = ahead<kRows>(n);
  with_flag(is_far, [&](auto far) BRAINDNORM_INLINE {
    for_runs<kRows>(view, some.items[0], [&](int64_t start, int64_t length, int64_t p, auto own) BRAINDNORM_INLINE {
      each<A, 2>(length, [&](auto at) BRAINDNORM_INLINE {
        const auto factor = parameter<own>(scale + p, at);
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
          const int64_t here = begin[r] + start;
          const auto z = ((at.get(x + here) - s[r].mean) - s[r].rest) * s[r].rstd;
          const auto d = s[r].rstd * (at.get(g + here) * factor - shift[r] - z * slope[r]);
          fetch<far>(at, x + here + next), fetch<far>(at, g + here + next);
          put<far>(at, dx + here, at.keep(mask.from(here), d));
        });
      });
    });
  });
}

// Rows that wait for others of their kind.
template <int kRows>
struct Waiting {
  Some<kRows> some;
  int count = 0;

  template <class Run>
  void add(int64_t item, int64_t valid, const Run &run) {
    some.items[count] = item, some.valid[count] = valid;
    if (++count == kRows) run(some), count = 0;
  }
  template <class Run>
  void flush(const Run &run) const {
    for (int r = 0; r < count; ++r) run(Some<1>{{some.items[r]}, {some.valid[r]}});
  }
};

// Calls run(some, parts, mask) for rows of some valid elements, and skip(item) for those of none. A row that is valid
// throughout needs no mask; a mask of whole rows says which it is. Rows of at most kLongest elements come kRows at once,
// others alone, their sums in kParts. Sums of a row are in the same parts however many come with it, so that its digits
// do not depend on the others.
template <int kRows, int kParts, int64_t kLongest, class M, class Run, class Skip>
void for_rows(const View &view, int64_t first, int64_t last, M mask, const Run &run, const Skip &skip) {
  using Short = std::integral_constant<int, 1>;
  using Long = std::integral_constant<int, kParts>;
  const int64_t n = view.row();
  const bool at_once = view.groups == 1 && view.tail == 1 && n <= kLongest;
  const auto whole = [&](const auto &some) { run(some, Short(), Mask<false>{}); };
  const auto in_part = [&](const auto &some) {
    if constexpr (!std::is_same_v<M, RowMask>) run(some, Short(), mask);
  };
  Waiting<kRows> of_whole, of_part;
  for (int64_t item = first; item < last; ++item) {
    const int64_t valid = mask.count_row(item, n);
    const Some<1> alone{{item}, {valid}};
    if (valid == 0) skip(item);
    else if (at_once && valid == n) of_whole.add(item, valid, whole);
    else if (at_once) of_part.add(item, valid, in_part);
    else if (valid == n) run(alone, Long(), Mask<false>{});
    else if constexpr (!std::is_same_v<M, RowMask>) run(alone, Long(), mask);
  }
  of_whole.flush(whole), of_part.flush(in_part);
}

}  // namespace braindnorm
