// How matrices are divided into tasks, each of which goes through some rows of some columns.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "lanes.h"
#include "memory.h"
#include "parallel.h"

namespace braindnorm {

constexpr int64_t kDepth = 64;  // as many rows are summed in the arithmetic's own type, then in double

// Rows [first, last) of a matrix, and the columns of a tile of it.
struct Part {
  int64_t item, first, last, column, width, rows, columns;
  bool cached;  // whether it is in the cache when it is read again, or all along
  bool far;     // whether the result is written past the cache

  int64_t row(int64_t r) const { return item * rows + r; }
  int64_t begin(int64_t r) const { return row(r) * columns + column; }
};

// [batch][rows][columns], in tiles of columns, whose rows are divided into chunks. Each follows from these lengths
// alone, and so do the digits. A matrix of few rows is one chunk, and its tiles are so narrow that one stays in the
// cache from its statistics to its results.
struct Grid {
  int64_t batch, rows, columns, width, tiles, length, chunks, share, shares;
  bool cached, far;

  Grid(int64_t b, int64_t r, int64_t c, bool to_memory) : batch(b), rows(r), columns(c), far(to_memory) {
    const bool few = rows <= 512;
    width = std::min(columns, few ? std::clamp<int64_t>(65536 / rows / 16 * 16, 128, 4096) : 1024);
    tiles = divided(columns, width);
    // as many elements as outweigh waking a thread, and at most 64 tasks or so
    const int64_t least = std::max(int64_t(32768), batch * rows * columns / 64);
    length = few ? rows : std::min(rows, divided(divided(least, width), kDepth) * kDepth);
    chunks = divided(rows, length);
    cached = few || batch * rows * columns <= 262144;
    share = std::clamp<int64_t>(divided(least, length * width), 1, segments());
    shares = divided(segments(), share);
  }
  int64_t segments() const { return batch * chunks; }
  int64_t tasks() const { return tiles * shares; }
  int64_t tile_width(int64_t tile) const { return std::min(width, columns - tile * width); }
  Part part(int64_t tile, int64_t segment) const {
    const int64_t first = segment % chunks * length;
    const int64_t last = std::min(rows, first + length);
    return {segment / chunks, first, last, tile * width, tile_width(tile), rows, columns, cached, far};
  }

  static int64_t divided(int64_t n, int64_t by) { return (n + by - 1) / by; }
};

// Calls run(tile, first, last) for the segments of each task. A second pass goes back, through what the first one left
// in the cache.
template <class Run>
void for_tasks(Threads threads, const Grid &grid, bool back, const Run &run) {
  in_parallel(threads, grid.tasks(), [&](int64_t i) {
    const int64_t task = back ? grid.tasks() - 1 - i : i, first = task % grid.shares * grid.share;
    run(task / grid.shares, first, std::min(grid.segments(), first + grid.share));
    end_streams();
  });
}

// Where the valid rows of a block begin.
struct Rows {
  int64_t begin[kDepth];
  int count = 0;
};

// Some of them at once. The processor does not foresee what comes from memory in several rows at once: it is fetched so
// far `ahead`.
template <int kCount, bool kFetch = false>
struct Few {
  static constexpr int count = kCount;
  int64_t begin[kCount], ahead;

  template <class T>
  BRAINDNORM_INLINE void fetch(const T *row, int64_t j) const {
    if constexpr (kFetch) __builtin_prefetch(row + j + ahead);
  }
};

template <int kCount, bool kFetch, class Body>
BRAINDNORM_INLINE inline int each_few(const Rows &rows, int i, int64_t ahead, const Body &body) {
  for (; i + kCount <= rows.count; i += kCount) {
    Few<kCount, kFetch> some;
    std::memcpy(some.begin, rows.begin + i, sizeof some.begin);
    some.ahead = ahead;
    body(some);
  }
  return i;
}

// Calls body(some) for four rows at once, and for each of those that are left.
template <class Body>
BRAINDNORM_INLINE inline void at_once(const Rows &rows, const Part &part, const Body &body) {
  const int64_t ahead = std::max<int64_t>(4, 2048 / part.width) * part.columns;
  const int i = part.cached ? each_few<4, false>(rows, 0, 0, body) : each_few<4, true>(rows, 0, ahead, body);
  each_few<1, false>(rows, i, 0, body);
}

// Calls body(rows, mask) for blocks of rows with something valid in them. A mask of rows leaves none within them.
template <class M, class Body>
void for_blocks(const Part &part, M mask, const Body &body) {
  constexpr bool kOfRows = std::is_same_v<M, RowMask>;
  for (int64_t start = part.first; start < part.last; start += kDepth) {
    Rows rows;
    for (int64_t row = start; row < std::min(start + kDepth, part.last); ++row) {
      if constexpr (kOfRows)
        if (!mask.valid[part.row(row)]) continue;
      rows.begin[rows.count++] = part.begin(row);
    }
    if constexpr (kOfRows) {
      if (rows.count) body(rows, Mask<false>{nullptr});
    } else {
      body(rows, mask);
    }
  }
}

// Writes 0 to rows that a mask of rows leaves out.
template <class M, class Y>
void clear_masked(const Part &part, M mask, Y *y) {
  if constexpr (std::is_same_v<M, RowMask>)
    for (int64_t row = part.first; row < part.last; ++row)
      if (!mask.valid[part.row(row)]) std::memset(y + part.begin(row), 0, part.width * sizeof(Y));
}

}  // namespace braindnorm
