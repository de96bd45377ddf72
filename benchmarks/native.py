"""What a kernel in C++ would win: ``python -m benchmarks.native``, which needs g++ and OpenMP.

The kernel is compiled by ``brainevent`` and called by XLA through its foreign function interface. It is an experiment
for a decision (docs/speed.md): it has no forward mode, no vmap and no mask.
"""

from typing import Any

import brainevent
import jax
import jax.numpy as jnp
import numpy as np

from . import peers, report, timing

SOURCE = r"""
#include <cmath>
#include <cstring>
#include <vector>
#include <omp.h>
#include "brainevent/common.h"

// Each row is read once from memory; its sums are taken while it is in the first cache.
void ln_forward(const BE::Tensor x, const BE::Tensor s, const BE::Tensor b, BE::Tensor y, BE::Tensor m, BE::Tensor r) {
  const float *X = static_cast<const float *>(x.data_ptr()), *S = static_cast<const float *>(s.data_ptr());
  const float *B = static_cast<const float *>(b.data_ptr());
  float *Y = static_cast<float *>(y.data_ptr()), *M = static_cast<float *>(m.data_ptr());
  float *R = static_cast<float *>(r.data_ptr());
  const long rows = x.size(0), n = x.size(1);
#pragma omp parallel for schedule(static)
  for (long i = 0; i < rows; ++i) {
    const float *row = X + i * n;
    float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < n; ++j) sum += row[j];
    const float mean = sum / n;
#pragma omp simd reduction(+ : square)
    for (long j = 0; j < n; ++j) square += (row[j] - mean) * (row[j] - mean);
    const float rstd = 1 / std::sqrt(square / n + 1e-6f);
#pragma omp simd
    for (long j = 0; j < n; ++j) Y[i * n + j] = (row[j] - mean) * rstd * S[j] + B[j];
    M[i] = mean;
    R[i] = rstd;
  }
}

void ln_backward(const BE::Tensor x, const BE::Tensor g, const BE::Tensor s, const BE::Tensor m, const BE::Tensor r,
                 BE::Tensor dx, BE::Tensor ds, BE::Tensor db) {
  const float *X = static_cast<const float *>(x.data_ptr()), *G = static_cast<const float *>(g.data_ptr());
  const float *S = static_cast<const float *>(s.data_ptr()), *M = static_cast<const float *>(m.data_ptr());
  const float *R = static_cast<const float *>(r.data_ptr());
  float *DX = static_cast<float *>(dx.data_ptr()), *DS = static_cast<float *>(ds.data_ptr());
  float *DB = static_cast<float *>(db.data_ptr());
  const long rows = x.size(0), n = x.size(1);
  std::memset(DS, 0, n * sizeof(float));
  std::memset(DB, 0, n * sizeof(float));
#pragma omp parallel
  {
    std::vector<float> scale(n, 0.f), bias(n, 0.f);
#pragma omp for schedule(static)
    for (long i = 0; i < rows; ++i) {
      const float *row = X + i * n, *cotangent = G + i * n;
      const float mean = M[i], rstd = R[i];
      float one = 0, two = 0;
#pragma omp simd reduction(+ : one, two)
      for (long j = 0; j < n; ++j) {
        const float z = (row[j] - mean) * rstd, gs = cotangent[j] * S[j];
        one += gs;
        two += gs * z;
        scale[j] += cotangent[j] * z;
        bias[j] += cotangent[j];
      }
      one /= n;
      two /= n;
#pragma omp simd
      for (long j = 0; j < n; ++j)
        DX[i * n + j] = rstd * (cotangent[j] * S[j] - one - (row[j] - mean) * rstd * two);
    }
#pragma omp critical
    for (long j = 0; j < n; ++j) {
      DS[j] += scale[j];
      DB[j] += bias[j];
    }
  }
}
"""
SHAPES = ((256, 1024), (100, 64, 512), (8192, 1024))


def kernel(x: jax.Array, g: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
    """Return the value of a layer norm and the gradients of x, scale and bias."""
    rows = x.reshape(-1, x.shape[-1])
    like = jax.ShapeDtypeStruct
    row, column = like(rows.shape[:1], x.dtype), like(scale.shape, x.dtype)
    whole = like(rows.shape, x.dtype)
    y, mean, rstd = jax.ffi.ffi_call("braindnorm_native.ln_forward", (whole, row, row))(rows, scale, bias)
    backward = jax.ffi.ffi_call("braindnorm_native.ln_backward", (whole, column, column))
    dx, dscale, dbias = backward(rows, g.reshape(rows.shape), scale, mean, rstd)
    return y.reshape(x.shape), dx.reshape(x.shape), dscale, dbias


def main() -> None:
    """Time it beside ours and torch, once its results are found right."""
    flags = ["-O3", "-march=native", "-fopenmp", "-ffast-math"]
    brainevent.load_cpp_inline(
        "braindnorm_native", SOURCE, ["ln_forward", "ln_backward"], extra_cflags=flags, extra_ldflags=["-fopenmp"]
    )
    for shape in SHAPES:
        case = peers.Case("layer", shape)
        x, g = peers.data(case)
        f, p = peers.ours(case)
        ones, zeros = jnp.ones(case.channels), jnp.zeros(case.channels)
        check(f, p, x, g, kernel(x, g, ones, zeros))
        calls = {
            "ours": peers.forward(peers.both(f), p, x, g),
            "native": peers.forward(kernel, x, g, ones, zeros),
            "torch": peers.torch_peer(case)[1],
            "x + g": peers.forward(lambda x, g: x + g, x, g),
        }
        print(report.line(f"{case} forward+backward", timing.interleaved(calls, 25)), flush=True)


def check(f: Any, p: Any, x: jax.Array, g: jax.Array, found: tuple[jax.Array, ...]) -> None:
    """Raise unless the kernel's value and its gradient of x are ours."""
    y, (_, dx) = peers.both(f)(p, x, g)
    for mine, its in ((y, found[0]), (dx, found[1])):
        np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
