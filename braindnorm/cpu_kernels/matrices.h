// All columns of all matrices, on all threads.

#pragma once

#include <cstdint>
#include <memory>

#include "columns.h"
#include "grid.h"
#include "parallel.h"
#include "view.h"

namespace braindnorm {

// Where a matrix is one chunk of rows, its columns are normalized while they are in the cache; else the moments of its
// chunks are merged in their order.
template <class A, class X, class M>
void forward_columns(Threads threads, const View &view, const X *x, M mask, A epsilon, const A *scale,
                     const A *bias, A *y, A *saved) {
  const bool far = is_far<A>(view.size() * (sizeof *x + sizeof *y), y, view.run());
  const Grid grid(view.batch, view.space, view.parameters(), far);
  constexpr bool kEach = kOfEach<M>;
  const auto all = [&](bool back, const auto &run) {
    for_tasks(threads, grid, back, [&](int64_t tile, int64_t first, int64_t last) {
      const Scratch<A> scratch(grid.width);
      for (int64_t segment = first; segment < last; ++segment) {
        const Part part = grid.part(tile, segment);
        run(part, segment, Kept<A>(saved, grid, part.item, part.column), scratch);
      }
    });
  };
  if (grid.chunks == 1) {
    return all(false, [&](const Part &part, int64_t, const Kept<A> &kept, const Scratch<A> &scratch) {
      const Moments found = scratch.moments(3);
      moments_of(part, x, mask, scratch, found);
      keep<kEach>(found, part.width, epsilon, kept);
      normalize(part, x, mask, kept, scale, bias, y, scratch);
    });
  }
  const int64_t n = grid.columns;
  std::unique_ptr<double[]> memory(new double[3 * n * grid.segments()]);
  const auto moments = [&](int64_t segment, int64_t column) {
    double *here = memory.get() + 3 * n * segment + column;
    return Moments{here, here + n, here + 2 * n};
  };
  all(false, [&](const Part &part, int64_t segment, const Kept<A> &, const Scratch<A> &scratch) {
    moments_of(part, x, mask, scratch, moments(segment, part.column));
  });
  for (int64_t segment = 0; segment < grid.segments(); segment += grid.chunks) {
    for (int64_t tile = 0; tile < grid.tiles; ++tile) {
      const Part part = grid.part(tile, segment);
      const Moments found = moments(segment, part.column);
      for (int64_t k = 1; k < grid.chunks; ++k) merge<kEach>(found, moments(segment + k, part.column), part.width);
      keep<kEach>(found, part.width, epsilon, Kept<A>(saved, grid, part.item, part.column));
    }
  }
  all(true, [&](const Part &part, int64_t, const Kept<A> &kept, const Scratch<A> &scratch) {
    normalize(part, x, mask, kept, scale, bias, y, scratch);
  });
}

// The sums of each segment are kept, and added in the order of the segments.
template <class A, class X, class M>
void backward_columns(Threads threads, const View &view, const X *x, M mask, const A *g, const A *scale,
                      A *saved, X *dx, A *dscale, A *dbias) {
  const bool far = is_far<A>(view.size() * (sizeof *x + sizeof *g + sizeof *dx), dx, view.run());
  const Grid grid(view.batch, view.space, view.parameters(), far);
  const int64_t n = grid.columns;
  const bool whole = grid.chunks == 1;
  // one sum a task, if nothing else asks for those of a segment
  std::unique_ptr<double[]> memory(new double[2 * n * (whole ? grid.shares : grid.segments())]);
  const auto sums = [&](int64_t i, int64_t column) { return memory.get() + 2 * n * i + column; };
  for_tasks(threads, grid, false, [&](int64_t tile, int64_t first, int64_t last) {
    const Scratch<A> scratch(grid.width);
    for (int64_t segment = first; segment < last; ++segment) {
      const Part part = grid.part(tile, segment);
      const Kept<A> kept(saved, grid, part.item, part.column);
      double *of_task = sums(whole ? first / grid.share : segment, part.column);
      double *one = whole && segment > first ? scratch.of_double(0) : of_task;
      double *two = one == of_task ? one + n : scratch.of_double(1);
      sums_of(part, x, mask, g, kept, scratch, one, two);
      if (whole && dx) gradient_of(part, x, mask, g, kept, scale, one, two, dx, scratch);
      if (one != of_task)
        for (int64_t c = 0; c < part.width; ++c) of_task[c] += one[c], of_task[n + c] += two[c];
    }
  });
  const int64_t step = whole ? 1 : grid.chunks;
  std::unique_ptr<double[]> total(new double[2 * n]());
  for (int64_t i = 0; i < (whole ? grid.shares : grid.segments()); i += step) {
    double *first = sums(i, 0);
    for (int64_t k = 1; k < step; ++k)
      for (int64_t c = 0; c < 2 * n; ++c) first[c] += sums(i + k, 0)[c];
    for (int64_t c = 0; c < 2 * n; ++c) total[c] += first[c];
  }
  for (int64_t c = 0; c < n; ++c) dbias[c] = static_cast<A>(total[c]), dscale[c] = static_cast<A>(total[n + c]);
  if (whole || !dx) return;
  for_tasks(threads, grid, true, [&](int64_t tile, int64_t first, int64_t last) {
    const Scratch<A> scratch(grid.width);
    for (int64_t segment = first; segment < last; ++segment) {
      const Part part = grid.part(tile, segment);
      const double *one = sums(part.item * grid.chunks, part.column);
      gradient_of(part, x, mask, g, Kept<A>(saved, grid, part.item, part.column), scale, one, one + n, dx, scratch);
    }
  });
}

}  // namespace braindnorm
