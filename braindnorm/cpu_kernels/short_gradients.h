// The gradients of rows of few elements: as many at once as a vector has lanes, and two groups of them at work.

#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"
#include "memory.h"
#include "rows.h"
#include "short_rows.h"
#include "view.h"

namespace braindnorm {

// Between the sums of one group and what needs them, those of another are taken. The digits are those that
// backward_rows gives to one row after another. `dx` may be null, where nobody asks for it.
template <class A, class X>
class ShortGradients {
 public:
  ShortGradients(const View &view, const X *x, const A *g, const A *scale, const Saved<A> &saved, X *dx, A *dscale,
                 A *dbias, bool is_far)
      : view_(view), x_(x), g_(g), scale_(scale), saved_(saved), dx_(dx), dscale_(dscale), dbias_(dbias), far_(is_far) {}

  BRAINDNORM_INLINE void add(int64_t item, int64_t first) {
    items_[filled_] = item, first_[filled_] = first;
    if (++filled_ < kRows) return;
    Group &group = ring_[full_ & 1], &before = ring_[(full_ & 1) ^ 1];
    for (int r = 0; r < kRows; ++r) {
      group.begin[r] = items_[r] * n_, group.first[r] = first_[r];
      group.put(r, Slopes<A>::of(saved_.get(items_[r])));
    }
    add_sums(group);
    if (full_ && dx_) write(before);
    ++full_, filled_ = 0;
  }
  void finish() {
    if (full_ && dx_) write(ring_[(full_ & 1) ^ 1]);
    for (int r = 0; r < filled_; ++r)
      backward_rows<1>(view_, Some<1>{{items_[r]}, {n_}, {first_[r]}}, x_, Mask<false>{nullptr}, g_, scale_, saved_,
                       dx_, dscale_, dbias_, far_);
  }

 private:
  using V = typename Wide<A>::Value;
  static constexpr int kRows = kLanes<A>, kTogether = 2;
  struct Group {
    int64_t begin[kRows], first[kRows];
    alignas(kBytes) A mean[kRows], rest[kRows], rstd[kRows], shift[kRows], slope[kRows];

    void put(int r, const Slopes<A> &s) { mean[r] = s.mean, rest[r] = s.rest, rstd[r] = s.rstd; }
    BRAINDNORM_INLINE Slopes<A> row(int r) const { return {mean[r], rest[r], rstd[r], shift[r], slope[r]}; }
  };
  struct Part {
    const X *x[kTogether];
    const A *g[kTogether];
    int64_t first[kTogether];  // of the parameters
    Slopes<A> row[kTogether];  // here, so that no store makes them be read again

    BRAINDNORM_INLINE Part(const ShortGradients &of, const Group &group, int from) {
      repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
        const int64_t begin = group.begin[from + r];
        x[r] = of.x_ + begin, g[r] = of.g_ + begin, first[r] = group.first[from + r], row[r] = group.row(from + r);
      });
    }
  };

  BRAINDNORM_INLINE void add_sums(Group &group) const {
    V of_g[kRows], of_gz[kRows];
    alignas(kBytes) A end[kRows], end_z[kRows];
    with_flag(view_.groups > 1, [&](auto apart) BRAINDNORM_INLINE {
      repeat<kRows / kTogether>([&](auto part) BRAINDNORM_INLINE {
        constexpr int from = part * kTogether;
        const Part rows(*this, group, from);
        Sum<A, 1> sums[kTogether], sums_z[kTogether];
        add_some(rows, apart, sums, sums_z);
        repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
          of_g[from + r] = sums[r].parts[0], of_gz[from + r] = sums_z[r].parts[0];
          end[from + r] = sums[r].rest, end_z[from + r] = sums_z[r].rest;
        });
      });
    });
    if (!dx_) return;
    const V mean_g = mean_of(of_g, end), mean_gz = mean_of(of_gz, end_z);
    Slopes<V> all{{}, all_of(group.rest), all_of(group.rstd), {}, {}};
    all.set(view_.centred ? mean_g : V{}, mean_gz);
    std::memcpy(group.shift, &all.shift, sizeof(V)), std::memcpy(group.slope, &all.slope, sizeof(V));
  }
  // Rows that are `apart` add to parameters of their own.
  template <class Apart>
  BRAINDNORM_INLINE void add_some(const Part &rows, Apart apart, Sum<A, 1> *sums, Sum<A, 1> *sums_z) const {
    const A *scale[kTogether];
    A *dscale[kTogether], *dbias[kTogether];
    repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
      const int64_t first = apart ? rows.first[r] : 0;
      scale[r] = scale_ + first, dscale[r] = dscale_ + first, dbias[r] = dbias_ + first;
    });
    each<A, 1>(n_, [&](auto at) BRAINDNORM_INLINE {
      typename decltype(at)::Value factor{}, sum{}, sum_z{};
      repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
        if constexpr (apart || r == 0) factor = at.get(scale[r]), sum = at.get(dbias[r]), sum_z = at.get(dscale[r]);
        const auto z = rows.row[r].z(at.get(rows.x[r]));
        const auto seen = at.get(rows.g[r]), scaled = seen * factor;
        sum += seen, sum_z += seen * z, sums[r].add(at, scaled), sums_z[r].add(at, scaled * z);
        if constexpr (apart || r == kTogether - 1) at.put(dscale[r], sum_z), at.put(dbias[r], sum);
      });
    });
  }
  BRAINDNORM_INLINE static V all_of(const A *rows) { return Wide<A>{0}.raw(rows); }
  BRAINDNORM_INLINE V mean_of(const V *sums, const A *ends) const {
    const V total = Across<A>::sum(sums) + all_of(ends);
    return __builtin_convertvector(__builtin_convertvector(total, Vector<double, kRows>) * share_, V);
  }

  BRAINDNORM_INLINE void write(const Group &group) const {
    with_flag(far_, [&](auto far) BRAINDNORM_INLINE {
      with_flag(view_.groups > 1, [&](auto apart) BRAINDNORM_INLINE {
        repeat<kRows / kTogether>([&](auto part) BRAINDNORM_INLINE { write_some(group, part * kTogether, far, apart); });
      });
    });
  }
  template <class Far, class Apart>
  BRAINDNORM_INLINE void write_some(const Group &group, int from, Far far, Apart apart) const {
    const int64_t next = 2 * kRows * n_;  // what lies nearer was read for the sums of the other group
    const Part rows(*this, group, from);
    X *dx[kTogether];
    const A *scale[kTogether];
    repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
      dx[r] = dx_ + group.begin[from + r], scale[r] = scale_ + (apart ? rows.first[r] : 0);
    });
    each<A, 1>(n_, [&](auto at) BRAINDNORM_INLINE {
      auto factor = at.get(scale[0]);
      repeat<kTogether>([&](auto r) BRAINDNORM_INLINE {
        if constexpr (apart && r > 0) factor = at.get(scale[r]);
        fetch(at, far, rows.x[r] + next), fetch(at, far, rows.g[r] + next);
        put(at, far, dx[r], rows.row[r].dx(at.get(rows.x[r]), at.get(rows.g[r]), factor));
      });
    });
  }

  const View view_;
  const X *x_;
  const A *g_, *scale_;
  const Saved<A> saved_;
  X *dx_;
  A *dscale_, *dbias_;
  const bool far_;
  const int64_t n_ = view_.row();
  const double share_ = 1 / static_cast<double>(n_);
  Group ring_[2];
  int64_t full_ = 0, items_[kRows], first_[kRows];
  int filled_ = 0;
};

}  // namespace braindnorm
