// Rows of so few elements that several stay in the cache: as many at once as a vector has lanes, so that what is known
// of them are vectors.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "lanes.h"
#include "memory.h"
#include "rows.h"
#include "view.h"

namespace braindnorm {

// The sums of as many vectors as each has lanes: lanes half a vector apart are added first, then those a quarter apart,
// as Sum does.
template <class A>
struct Across {
  static constexpr int kLength = kLanes<A>;
  using V = typename Wide<A>::Value;

  template <int kChunk = kLength>
  BRAINDNORM_INLINE static V sum(const V *rows) {
    if constexpr (kChunk == 1) {
      return rows[0];
    } else {
      V pairs[kChunk / 2];
      repeat<kChunk / 2>([&](auto r) BRAINDNORM_INLINE { pairs[r] = folded<kChunk>(rows[r], rows[r + kChunk / 2]); });
      return sum<kChunk / 2>(pairs);
    }
  }

 private:
  // In each chunk of lanes the sums of the halves of this chunk of one, then those of the other.
  template <int kChunk>
  BRAINDNORM_INLINE static V folded(V one, V other) {
    constexpr std::make_integer_sequence<int, kLength> lanes{};
    return halves<kChunk, 0>(one, other, lanes) + halves<kChunk, 1>(one, other, lanes);
  }
  template <int kChunk, int kHalf, int... kLane>
  BRAINDNORM_INLINE static V halves(V one, V other, std::integer_sequence<int, kLane...>) {
#ifdef __clang__
    return __builtin_shufflevector(one, other, from<kChunk, kHalf>(kLane)...);
#else
    return __builtin_shuffle(one, other, typename Wide<A>::Words{from<kChunk, kHalf>(kLane)...});
#endif
  }
  template <int kChunk, int kHalf>
  static constexpr Bits<A> from(int lane) {
    const int within = lane % kChunk, half = kChunk / 2;
    return lane - within + kHalf * half + within % half + (within < half ? 0 : kLength);
  }
};

constexpr int64_t kShortest = 256;  // of elements, if three groups of rows are to stay in the cache of first level

// Three groups of rows are at work at once: between the sums of one and what needs them, others are summed and written.
// Their digits are those that forward_rows gives to one row.
template <class A, class X>
class ShortRows {
 public:
  ShortRows(const View &view, const X *x, A epsilon, const A *scale, const A *bias, A *y, const Saved<A> &saved,
            bool is_far)
      : view_(view), x_(x), epsilon_(epsilon), scale_(scale), bias_(bias), y_(y), saved_(saved), far_(is_far) {}

  static bool fit(const View &view) {
    return view.space == 1 && view.tail == 1 && view.channels <= kShortest;
  }
  // `first` is the first of its parameters.
  BRAINDNORM_INLINE void add(int64_t item, int64_t first) {
    Group &group = at(full_);
    group.items[filled_] = item, group.begin[filled_] = item * n_, group.first[filled_] = first;
    if (++filled_ == kRows) ++full_, filled_ = 0, step();
  }
  void finish() {
    step(), step();
    for (int r = 0; r < filled_; ++r)
      forward_rows<1>(view_, Some<1>{{at(full_).items[r]}, {n_}, {at(full_).first[r]}}, x_, Mask<false>{nullptr},
                      epsilon_, scale_, bias_, y_, saved_, far_);
  }

 private:
  using V = typename Wide<A>::Value;
  static constexpr int kRows = kLanes<A>, kTogether = kRows < 4 ? kRows : 4;
  struct Group {
    int64_t items[kRows], begin[kRows], first[kRows];
    alignas(kBytes) A mean[kRows], rest[kRows], rstd[kRows];
  };

  Group &at(int64_t i) { return ring_[i & 3]; }
  bool is_full(int64_t i) const { return 0 <= i && i < full_; }
  void step() {
    if (is_full(steps_ - 1)) find_deviations(at(steps_ - 1));
    if (is_full(steps_)) find_means(at(steps_));
    if (is_full(steps_ - 2)) write(at(steps_ - 2));
    ++steps_;
  }

  // The sums of the elements behind the last whole vector.
  template <class Term>
  V ends(const Term &term) const {
    A sums[kRows] = {};
    for (int64_t j = n_ - n_ % kRows; j < n_; ++j)
      for (int r = 0; r < kRows; ++r) sums[r] += term(One<A>{j}, r);
    V v;
    std::memcpy(&v, sums, sizeof v);
    return v;
  }

  BRAINDNORM_INLINE void find_means(Group &group) const {
    V mean{};
    if (view_.centred) {
      const X *x[kRows];
      V sums[kRows] = {};
      repeat<kRows>([&](auto r) BRAINDNORM_INLINE { x[r] = x_ + group.begin[r]; });
      for (Wide<A> at{0}; at.j + kRows <= n_; at.j += kRows)
        repeat<kRows>([&](auto r) BRAINDNORM_INLINE { sums[r] += at.get(x[r]); });
      V total = Across<A>::sum(sums);
      if (n_ % kRows) total += ends([&](auto at, int r) { return at.get(x_ + group.begin[r]); });
      for (int r = 0; r < kRows; ++r) mean[r] = static_cast<A>(total[r] * share_);
    }
    std::memcpy(group.mean, &mean, sizeof mean);
  }
  BRAINDNORM_INLINE void find_deviations(Group &group) const {
    V sums[kRows] = {}, squares[kRows] = {};
    repeat<kRows / kTogether>([&](auto part) BRAINDNORM_INLINE {
      add_deviations(group, part * kTogether, sums + part * kTogether, squares + part * kTogether);
    });
    V all = Across<A>::sum(sums), square = Across<A>::sum(squares);
    if (n_ % kRows) {
      const auto deviation = [&](auto at, int r) { return at.get(x_ + group.begin[r]) - group.mean[r]; };
      all += ends(deviation);
      square += ends([&](auto at, int r) { return deviation(at, r) * deviation(at, r); });
    }
    if (!view_.centred) all = V{};
    V rest, variance;
    for (int r = 0; r < kRows; ++r) {
      const double whole = all[r], left = whole * share_;
      rest[r] = static_cast<A>(left), variance[r] = static_cast<A>((square[r] - whole * left) * share_);
    }
    const V rstd = rstd_of(nonnegative(variance), epsilon_);
    std::memcpy(group.rest, &rest, sizeof rest), std::memcpy(group.rstd, &rstd, sizeof rstd);
  }
  BRAINDNORM_INLINE void add_deviations(const Group &group, int first, V *sums, V *squares) const {
    const X *x[kTogether];
    A mean[kTogether];
    repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
      x[r] = x_ + group.begin[first + r], mean[r] = group.mean[first + r];
    });
    for (Wide<A> at{0}; at.j + kRows <= n_; at.j += kRows)
      repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
        const auto d = at.get(x[r]) - mean[r];
        sums[r] += d, squares[r] += d * d;
      });
  }

  BRAINDNORM_INLINE void write(const Group &group) const {
    repeat<kRows>([&](auto r) BRAINDNORM_INLINE {
      saved_.put(group.items[r], {group.mean[r], group.rest[r], group.rstd[r]});
    });
    with_flag(far_, [&](auto far) BRAINDNORM_INLINE {
      with_flag(view_.groups > 1, [&](auto apart) BRAINDNORM_INLINE {
        repeat<kRows / kTogether>([&](auto part) BRAINDNORM_INLINE { write_some(group, part * kTogether, far, apart); });
      });
    });
  }
  template <class Far, class Apart>
  BRAINDNORM_INLINE void write_some(const Group &group, int first, Far far, Apart apart) const {
    const int64_t next = 3 * kRows * n_;  // what lies nearer was read for the sums of other groups
    A mean[kTogether], rest[kTogether], rstd[kTogether];  // here, so that no store makes them be read again
    const X *x[kTogether];
    A *y[kTogether];
    const A *scale[kTogether], *bias[kTogether];
    repeat<kTogether>([&](auto i) BRAINDNORM_INLINE {
      const int r = first + i;
      scale[i] = scale_ + (apart ? group.first[r] : 0), bias[i] = bias_ + (apart ? group.first[r] : 0);
      mean[i] = group.mean[r], rest[i] = group.rest[r], rstd[i] = group.rstd[r];
      x[i] = x_ + group.begin[r], y[i] = y_ + group.begin[r];
    });
    each<A, 1>(n_, [&](auto at) BRAINDNORM_INLINE {
      auto factor = at.get(scale[0]), offset = at.get(bias[0]);
      repeat<kTogether>([&](auto i) BRAINDNORM_INLINE {
        if constexpr (apart && i > 0) factor = at.get(scale[i]), offset = at.get(bias[i]);
        const auto z = ((at.get(x[i]) - mean[i]) - rest[i]) * rstd[i];
        fetch(at, far, x[i] + next);
        put(at, far, y[i], z * factor + offset);
      });
    });
  }

  const View view_;
  const X *x_;
  const A epsilon_, *scale_, *bias_;
  A *y_;
  const Saved<A> saved_;
  const bool far_;
  const int64_t n_ = view_.row();
  const double share_ = 1 / static_cast<double>(n_);
  Group ring_[4];
  int64_t full_ = 0, steps_ = 0;  // groups; those of which the means were asked for
  int filled_ = 0;
};

}  // namespace braindnorm
