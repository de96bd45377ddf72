// Arrays that do not fit into the cache: results are written past it, and what is read next is fetched ahead.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "lanes.h"

namespace braindnorm {

// As many bytes as a call has to read and write for that. Memory that a store goes past the cache to is not read first,
// and what the cache holds of the inputs stays there for the next reader. Of fewer bytes, it is the result that the
// next reader finds there.
#ifndef BRAINDNORM_FAR
#define BRAINDNORM_FAR (int64_t(16) << 20)
#endif

// Whether a result of vectors of A, in rows of as many elements, is written past the cache: they have to be aligned.
template <class A, class Y>
bool is_far(int64_t bytes, const Y *result, int64_t row) {
  const bool aligned = reinterpret_cast<uintptr_t>(result) % (kLanes<A> * sizeof(Y)) == 0;
  return bytes >= BRAINDNORM_FAR && aligned && row % kLanes<A> == 0;
}

// Calls body(std::true_type()) or body(std::false_type()): a loop over what is in the cache has no branch in it.
template <class Body>
BRAINDNORM_INLINE inline void with_flag(bool flag, const Body &body) {
  if (flag) body(std::true_type());
  else body(std::false_type());
}

template <class V>
BRAINDNORM_INLINE inline void stream(void *to, V v) {
#ifdef __AVX__
  if constexpr (sizeof v == 32) return _mm256_stream_si256(static_cast<__m256i *>(to), reinterpret_cast<__m256i>(v));
#endif
#ifdef __SSE2__
  if constexpr (sizeof v == 16) return _mm_stream_si128(static_cast<__m128i *>(to), reinterpret_cast<__m128i>(v));
#endif
  std::memcpy(to, &v, sizeof v);
}

// Lets other threads see what was streamed.
inline void end_streams() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Writes past the cache, if it is `far`: a flag, or a type that is true or false.
template <class At, class Far, class Y, class V>
BRAINDNORM_INLINE inline void put(At at, Far far, Y *p, V v) {
  if constexpr (!std::is_arithmetic_v<V>)
    if (far) return stream(p + at.j, at.stored(p, v));
  at.put(p, v);
}
// Writes zeros.
template <class A, class Y>
void clear_row(Y *row, int64_t n, bool is_far) {
  with_flag(is_far, [&](auto far) BRAINDNORM_INLINE {
    each<A, 1>(n, [&](auto at) BRAINDNORM_INLINE { put(at, far, row, typename decltype(at)::Value{}); });
  });
}

template <class At, class Far, class X>
BRAINDNORM_INLINE inline void fetch(At at, Far far, const X *p) {
  if (far) __builtin_prefetch(p + at.j);
}

}  // namespace braindnorm
