// Several elements at once: how arrays are read, written, masked and summed.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __SSE2__
#include <immintrin.h>
#endif

// A body that is called in a loop is compiled into it, so that sums stay in registers: GCC would be told so once, by
// `flatten`, but Clang leaves lambdas out of that.
#define BRAINDNORM_INLINE __attribute__((always_inline))

namespace braindnorm {

constexpr int64_t kBlock = 4096;  // as many elements are summed in the arithmetic's own type, then in double

struct BFloat16 {
  uint16_t bits;
};

// Vectors as GCC and Clang extend C++, as wide as the registers: twice as wide ones would be kept in memory.
#ifdef __AVX__
constexpr int64_t kBytes = 32;
#else
constexpr int64_t kBytes = 16;
#endif
template <class A>
constexpr int64_t kLanes = kBytes / sizeof(A);
template <class T, int64_t kLength>
using Vector [[gnu::vector_size(sizeof(T) * kLength)]] = T;
template <class A>
using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;

// Calls body(0), body(1), ... with numbers that are known when it is compiled, so that it may index registers by them.
template <class Body, int... kIndex>
BRAINDNORM_INLINE inline void for_constants(std::integer_sequence<int, kIndex...>, const Body &body) {
  (body(std::integral_constant<int, kIndex>()), ...);
}
template <int kCount, class Body>
BRAINDNORM_INLINE inline void repeat(const Body &body) {
  for_constants(std::make_integer_sequence<int, kCount>(), body);
}

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
  BRAINDNORM_INLINE V raw(const T *p) const {
    V v;
    std::memcpy(&v, p + j, sizeof v);
    return v;
  }
  BRAINDNORM_INLINE Value get(const A *p) const { return raw(p); }
  BRAINDNORM_INLINE Value get(const BFloat16 *p) const {
    return reinterpret_cast<Value>(__builtin_convertvector(raw(&p->bits), Words) << 16);
  }
  // The bits of a value as they are stored in an array.
  BRAINDNORM_INLINE Value stored(const A *, Value v) const { return v; }
  BRAINDNORM_INLINE auto stored(const BFloat16 *, Value v) const {
    const Words wide = reinterpret_cast<Words>(v), nan = reinterpret_cast<Words>((wide & 0x7fffffff) > 0x7f800000);
    const Words nearest = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;  // ties to even
    return __builtin_convertvector((nearest & ~nan) | (0x7fc0 & nan), Vector<uint16_t, kLanes<A>>);
  }
  template <class T>
  BRAINDNORM_INLINE void put(T *p, Value v) const {
    const auto bits = stored(p, v);
    std::memcpy(p + j, &bits, sizeof bits);
  }
  template <class T>
  BRAINDNORM_INLINE Value widened(const T *p) const {
    return __builtin_convertvector(raw(p), Value);
  }
  template <class T>
  BRAINDNORM_INLINE void narrowed(T *p, Value v) const {
    const auto narrow = __builtin_convertvector(v, Vector<T, kLanes<A>>);
    std::memcpy(p + j, &narrow, sizeof narrow);
  }
  BRAINDNORM_INLINE Value keep(Mask<false>, Value v) const { return v; }
  BRAINDNORM_INLINE Value keep(Mask<true> mask, Value v) const {
    return reinterpret_cast<Value>(reinterpret_cast<Words>(v) & -words(mask.valid + j));
  }

 private:
  BRAINDNORM_INLINE static Words words(const uint8_t *p) {
#ifdef __AVX2__
    if constexpr (sizeof(A) == 4) {
      return reinterpret_cast<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
    } else {
      int32_t bytes;
      std::memcpy(&bytes, p, sizeof bytes);
      return reinterpret_cast<Words>(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes)));
    }
#else
    // in steps, each of which is one instruction: GCC takes a vector apart for a longer one
    Vector<uint8_t, kLanes<A>> bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    const auto half = __builtin_convertvector(bytes, Vector<uint16_t, kLanes<A>>);
    const auto whole = __builtin_convertvector(half, Vector<uint32_t, kLanes<A>>);
    return __builtin_convertvector(whole, Words);
#endif
  }
};

// Square roots, of which a compiler makes one instruction.
template <class V>
BRAINDNORM_INLINE inline V root(V v) {
  if constexpr (std::is_arithmetic_v<V>) {
    return std::sqrt(v);
  } else {
    for (size_t i = 0; i < sizeof v / sizeof v[0]; ++i) v[i] = std::sqrt(v[i]);
    return v;
  }
}

// NaN stays what it is.
template <class V>
BRAINDNORM_INLINE inline V nonnegative(V v) {
  return v < 0 ? V{} : v;
}

template <class A>
struct One {
  using Value = A;
  int64_t j;

  A get(const A *p) const { return p[j]; }
  A get(const BFloat16 *p) const { return __builtin_bit_cast(float, static_cast<uint32_t>(p[j].bits) << 16); }
  void put(A *p, A v) const { p[j] = v; }
  template <class T>
  A widened(const T *p) const {
    return static_cast<A>(p[j]);
  }
  template <class T>
  void narrowed(T *p, A v) const {
    p[j] = static_cast<T>(v);
  }
  void put(BFloat16 *p, A v) const {
    const uint32_t wide = __builtin_bit_cast(uint32_t, v), nearest = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    p[j].bits = static_cast<uint16_t>((wide & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);
  }
  A keep(Mask<false>, A v) const { return v; }
  A keep(Mask<true> mask, A v) const { return mask.valid[j] ? v : A(0); }
};

// Calls body(at) for every place among n elements. Sums are kept in as many parts, which do not wait for each other.
template <class A, int kParts, class Body>
BRAINDNORM_INLINE inline void each(int64_t n, const Body &body) {
  constexpr int64_t kStep = kLanes<A>;
  int64_t j = 0;
  for (; j + kParts * kStep <= n; j += kParts * kStep)
    repeat<kParts>([&](auto part) BRAINDNORM_INLINE { body(Wide<A>{j + part * kStep, part}); });
  if constexpr (kParts > 1)
    for (; j + kStep <= n; j += kStep) body(Wide<A>{j, 0});
  for (; j < n; ++j) body(One<A>{j});
}

// The same for every block of at most kBlock elements, from the start of which its places count.
template <class Block>
BRAINDNORM_INLINE inline void each_block(int64_t n, const Block &block) {
  for (int64_t start = 0; start < n; start += kBlock) block(start, std::min(n - start, kBlock));
}

template <class A, int kParts>
struct Sum {
  typename Wide<A>::Value parts[kParts] = {};
  A rest = 0;

  BRAINDNORM_INLINE void add(Wide<A> at, typename Wide<A>::Value v) { parts[at.part] += v; }
  BRAINDNORM_INLINE void add(One<A>, A v) { rest += v; }
  BRAINDNORM_INLINE A total() const {
    auto lanes = parts[0];
    repeat<kParts - 1>([&](auto part) BRAINDNORM_INLINE { lanes += parts[part + 1]; });
    return across<kLanes<A>>(lanes) + rest;
  }

 private:
  // Lanes half a vector apart are added first, then those a quarter apart.
  template <int64_t kLength>
  BRAINDNORM_INLINE static A across(Vector<A, kLength> lanes) {
    if constexpr (kLength == 2) {
      return lanes[0] + lanes[1];
    } else {
      Vector<A, kLength / 2> halves[2];
      std::memcpy(halves, &lanes, sizeof lanes);
      return across<kLength / 2>(halves[0] + halves[1]);
    }
  }
};

}  // namespace braindnorm
