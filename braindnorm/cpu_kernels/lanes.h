// Several elements at once: how arrays are read, written, masked and summed.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace braindnorm {

constexpr int64_t kBlock = 4096;  // as many elements are summed in the arithmetic's own type, then in double

struct BFloat16 {
  uint16_t bits;
};

// Vectors of 32 bytes, as GCC and Clang extend C++: they are compiled for whatever width the processor has.
template <class A>
constexpr int64_t kLanes = 32 / sizeof(A);
template <class T, int64_t kLength>
using Vector [[gnu::vector_size(sizeof(T) * kLength)]] = T;
template <class A>
using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;

// A mask that is not there lets everything through, at no cost.
template <bool kMasked>
struct Mask {
  const uint8_t *valid;
  Mask from(int64_t start) const { return {kMasked ? valid + start : nullptr}; }
  int64_t count(int64_t n) const {
    if constexpr (!kMasked) return n;
    int64_t total = 0, j = 0;
    while (j + 8 <= n) {
      const int64_t words = std::min<int64_t>((n - j) / 8, 255);  // as many can be added before a byte overflows
      uint64_t bytes = 0;
      for (int64_t w = 0; w < words; ++w) {
        uint64_t word;
        std::memcpy(&word, valid + j + 8 * w, sizeof word);
        bytes += word;
      }
      for (; bytes; bytes >>= 8) total += bytes & 255;
      j += 8 * words;
    }
    for (; j < n; ++j) total += valid[j];
    return total;
  }
  int64_t count_row(int64_t row, int64_t n) const { return from(row * n).count(n); }
};

// A mask with one entry for each row.
struct RowMask {
  const uint8_t *valid;
  int64_t count_row(int64_t row, int64_t n) const { return valid[row] ? n : 0; }
};

// Where an array is read and written: `Wide` at as many elements as a vector holds, `One` at the few that are left. A
// mask takes bits away, without a branch, so that what is masked may be anything.
template <class A>
struct Wide {
  using Value = Vector<A, kLanes<A>>;
  using Words = Vector<Bits<A>, kLanes<A>>;
  int64_t j;
  int part;

  template <class T, class V = Vector<T, kLanes<A>>>
  V raw(const T *p) const {
    V v;
    std::memcpy(&v, p + j, sizeof v);
    return v;
  }
  Value get(const A *p) const { return raw(p); }
  Value get(const BFloat16 *p) const {
    return reinterpret_cast<Value>(__builtin_convertvector(raw(&p->bits), Words) << 16);
  }
  void put(A *p, Value v) const { std::memcpy(p + j, &v, sizeof v); }
  void put(BFloat16 *p, Value v) const {
    const Words wide = reinterpret_cast<Words>(v), nan = reinterpret_cast<Words>((wide & 0x7fffffff) > 0x7f800000);
    const Words nearest = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;  // ties to even
    const auto half = __builtin_convertvector((nearest & ~nan) | (0x7fc0 & nan), Vector<uint16_t, kLanes<A>>);
    std::memcpy(p + j, &half, sizeof half);
  }
  Value keep(Mask<false>, Value v) const { return v; }
  Value keep(Mask<true> mask, Value v) const {
    return reinterpret_cast<Value>(reinterpret_cast<Words>(v) & -__builtin_convertvector(raw(mask.valid), Words));
  }
};

template <class A>
struct One {
  using Value = A;
  int64_t j;

  A get(const A *p) const { return p[j]; }
  A get(const BFloat16 *p) const { return __builtin_bit_cast(float, static_cast<uint32_t>(p[j].bits) << 16); }
  void put(A *p, A v) const { p[j] = v; }
  void put(BFloat16 *p, A v) const {
    const uint32_t wide = __builtin_bit_cast(uint32_t, v), nearest = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    p[j].bits = static_cast<uint16_t>((wide & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);
  }
  A keep(Mask<false>, A v) const { return v; }
  A keep(Mask<true> mask, A v) const { return mask.valid[j] ? v : A(0); }
};

// Calls body(at) for every place among n elements.
template <class A, class Body>
inline void each(int64_t n, const Body &body) {
  int64_t j = 0;
  for (; j + 2 * kLanes<A> <= n; j += 2 * kLanes<A>) body(Wide<A>{j, 0}), body(Wide<A>{j + kLanes<A>, 1});
  if (j + kLanes<A> <= n) body(Wide<A>{j, 0}), j += kLanes<A>;
  for (; j < n; ++j) body(One<A>{j});
}

// The same for every block of at most kBlock elements, from the start of which its places count.
template <class Block>
inline void each_block(int64_t n, const Block &block) {
  for (int64_t start = 0; start < n; start += kBlock) block(start, std::min(n - start, kBlock));
}

template <class A>
struct Sum {
  typename Wide<A>::Value parts[2] = {};
  A rest = 0;

  void add(Wide<A> at, typename Wide<A>::Value v) { parts[at.part] += v; }
  void add(One<A>, A v) { rest += v; }
  A total() const {
    const auto lanes = parts[0] + parts[1];
    Vector<A, kLanes<A> / 2> halves[2];
    std::memcpy(halves, &lanes, sizeof lanes);
    halves[0] += halves[1];
    A sum = rest;
    for (int64_t i = 0; i < kLanes<A> / 2; ++i) sum += halves[0][i];
    return sum;
  }
};

}  // namespace braindnorm
