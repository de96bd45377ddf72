// How an array is seen, and what is known of each of its groups.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace braindnorm {

// [batch][space][groups][channels][tail], row by row, one of space and tail being 1. Statistics run over space,
// channels and tail; there is one scale and one bias for each of groups * channels. One group over space is a row whose
// parameters repeat; several are slabs.
struct View {
  int64_t batch, space, groups, channels, tail;
  bool centred;

  int64_t parameters() const { return groups * channels; }
  bool slabs() const { return space > 1 && groups > 1; }
  int64_t row() const { return (groups == 1 ? space : 1) * channels * tail; }
  int64_t size() const { return items() * item_size(); }
  // How many elements lie together that are computed alike.
  int64_t run() const { return space > 1 ? parameters() : tail > 1 ? tail : channels; }
  // How many entries a mask of rows has: of groups that are rows, or of the rows that columns go through.
  int64_t rows(bool columns) const { return columns ? batch * space : slabs() ? -1 : items(); }
  // What one task is made of: a group where it is contiguous, all groups of one element of the batch where it is not.
  int64_t items() const { return slabs() ? batch : batch * groups; }
  int64_t item_size() const { return slabs() ? space * parameters() : row(); }
  // A multiple of the groups, so that every chunk begins with the first. At least so many elements that they outweigh
  // waking a thread, and at most 64 chunks; `least` is what else they have to outweigh.
  int64_t items_in_chunk(int64_t least) const {
    const int64_t elements = std::max({int64_t(32768), least, items() * item_size() / 64});
    const int64_t wanted = (elements + item_size() - 1) / item_size();
    return slabs() ? wanted : (wanted + groups - 1) / groups * groups;
  }
};

// The mean is kept in two parts, the second of which is what rounding took from the first.
template <class A>
struct Statistics {
  A mean = 0, rest = 0, rstd = 0;
};

template <class V, class A>
BRAINDNORM_INLINE inline V rstd_of(V variance, A epsilon) {
  const V total = variance + epsilon, r = 1 / root(total);
  return total <= 0 ? V{} : r;  // NaN stays what it is
}

// Mean, rest and rstd of each group, one after another.
template <class A>
struct Saved {
  A *all;
  void put(int64_t i, const Statistics<A> &s) const {
    all[3 * i] = s.mean, all[3 * i + 1] = s.rest, all[3 * i + 2] = s.rstd;
  }
  Statistics<A> get(int64_t i) const { return {all[3 * i], all[3 * i + 1], all[3 * i + 2]}; }
};

}  // namespace braindnorm
