// Parts of the batch, each of which has scales and biases of its own, as `vmap` gives them: several norms in one call.

#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "view.h"

namespace braindnorm {

// Where a part begins: which it is, and the first of its elements, of its parameters and of its groups.
struct Place {
  int64_t set, element, parameter, group;
};

template <class A>
bool alike(const A *values, int64_t n) {
  return std::all_of(values, values + n, [&](A v) { return v == values[0]; });
}

// Calls run(threads, view, place) for each part. Many parts, and small ones, are shared among the threads, so many at
// once that they outweigh waking one; few large ones follow each other. Parts of one element of the batch are groups of
// one norm, if they can be `merged`.
template <class Run>
void for_sets(Threads threads, View view, int64_t sets, bool merged, const Run &run) {
  if (sets == 1) return run(threads, view, Place{});
  view.batch /= sets;
  const int64_t size = view.size(), n = view.parameters(), groups = view.batch * view.groups;
  const auto place = [=](int64_t set) { return Place{set, set * size, set * n, set * groups}; };
  const bool one_task = view.items_in_chunk(0) >= view.items();
  if (sets < 16 && size >= 65536 && !one_task) {
    for (int64_t set = 0; set < sets; ++set) run(threads, view, place(set));
    return;
  }
  const int64_t some = std::max<int64_t>({1, 32768 / size, sets / 64});
  in_parallel(threads, (sets + some - 1) / some, [&](int64_t chunk) {
    const int64_t first = chunk * some, last = std::min(sets, first + some);
    if (merged && view.batch == 1 && view.space == 1) {
      View groups = view;
      groups.groups *= last - first;
      return run(Threads(), groups, place(first));
    }
    for (int64_t set = first; set < last; ++set) run(Threads(), view, place(set));
  });
}

}  // namespace braindnorm
