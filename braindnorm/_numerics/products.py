"""Outer products, and the products that they transpose to.

XLA for CPU does a product of a matrix and a vector in half the time of a multiplication and a sum over rows; a batch of
them it does one by one, in loops. Elsewhere a product of matrices may be rounded, and a multiplication is not.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ..units import Shape
from .deferred import TINY, Deferred, Operand, bilinear, is_constant
from .shapes import Float
from .sums import Axes, plain_sum, sum_on_cpu


def outer(a: Float[jax.Array, " m"], b: Float[jax.Array, " n"], *, dots: bool = True) -> Float[jax.Array, "m n"]:
    """Return the outer product of two vectors."""
    return _product(a, b, left=(0,), right=(1,), out=(0, 1), dots=dots)


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a * b, where b has no more axes than a: each broadcasts to the other."""
    b = b.reshape((1,) * (a.ndim - b.ndim) + b.shape)
    left, right = (tuple(axis for axis, n in enumerate(v.shape) if n != 1) for v in (a, b))
    out = tuple(sorted({*left, *right}))
    flat = [v.reshape([v.shape[axis] for axis in axes]) for v, axes in ((a, left), (b, right))]
    product = _product(*flat, left=left, right=right, out=out, dots=False)
    return product.reshape(jnp.broadcast_shapes(a.shape, b.shape))


def _multiply(
    a: Operand,
    b: Operand,
    *,
    left: Axes,
    right: Axes,
    out: Axes,
    dots: bool,
    sum_over: Callable[..., jax.Array] = plain_sum,
) -> jax.Array:
    """Return the product, summed over what `out` has not. Each axis has a number, which `left` and `right` name."""
    major, minor = (left, right) if len(left) >= len(right) else (right, left)
    every = (*major, *(axis for axis in minor if axis not in major))
    wide = []
    for v, axes in ((a, left), (b, right)):
        moved = jnp.transpose(v, [axes.index(axis) for axis in every if axis in axes])
        wide.append(jnp.expand_dims(moved, [i for i, axis in enumerate(every) if axis not in axes]))
    summed = tuple(i for i, axis in enumerate(every) if axis not in out)
    result = jnp.squeeze(sum_over(wide[0] * wide[1], axes=summed), summed)
    return _ordered(result, [axis for axis in every if axis in out], out)


def _multiply_on_cpu(a: Operand, b: Operand, *, left: Axes, right: Axes, out: Axes, dots: bool) -> jax.Array:
    shared = [axis for axis in left if axis in right]
    sizes = dict(zip((*left, *right), (*a.shape, *b.shape), strict=True))
    if is_constant(sizes.values()) and math.prod(sizes.values()) <= TINY:
        return _multiply(a, b, left=left, right=right, out=out, dots=False)
    if not dots or any(axis in out for axis in shared):
        return _multiply(a, b, left=left, right=right, out=out, dots=False, sum_over=sum_on_cpu)
    (a_flat, a_axis), (b_flat, b_axis) = _as_matrix(a, left, shared), _as_matrix(b, right, shared)
    result = jax.lax.dot_general(a_flat, b_flat, ((a_axis, b_axis), ((), ())))
    free = [(axis, n) for v, axes in ((a, left), (b, right)) for axis, n in zip(axes, v.shape, strict=True)]
    free = [(axis, n) for axis, n in free if axis not in shared]
    return _ordered(result.reshape([n for _, n in free]), [axis for axis, _ in free], out)


def _as_matrix(v: Operand, axes: Axes, shared: Sequence[int]) -> tuple[jax.Array, tuple[int, ...]]:
    """Return what XLA knows as a matrix or a vector, and which of its axes is contracted.

    What is contracted along two axes it would transpose first.
    """
    free = [axis for axis in axes if axis not in shared]
    if not shared:
        return v.reshape(-1), ()
    first = axes[0] in shared
    v = _ordered(v, axes, (*shared, *free) if first else (*free, *shared))
    if not free:
        return v.reshape(-1), (0,)
    cut = len(shared) if first else len(free)
    return v.reshape(math.prod(v.shape[:cut]), math.prod(v.shape[cut:])), (0 if first else 1,)


def _ordered(v: Operand, axes: Sequence[int], out: Axes) -> jax.Array:
    return v if tuple(axes) == out else jnp.transpose(v, [axes.index(axis) for axis in out])


def _batch(
    values: Sequence[jax.Array], dims: Sequence[int | None], *, left: Axes, right: Axes, out: Axes, dots: bool
) -> tuple[jax.Array, int]:
    lanes = 1 + max((*left, *right), default=0)
    axes, moved = [left, right], list(values)
    for i, dim in enumerate(dims):
        if dim is not None:
            axes[i], moved[i] = (lanes, *axes[i]), jnp.moveaxis(values[i], dim, 0)
    return _product(*moved, left=axes[0], right=axes[1], out=(lanes, *out), dots=dots), 0


def _transpose_left(
    ct: jax.Array, a: Operand, b: Operand, *, left: Axes, right: Axes, out: Axes, dots: bool
) -> jax.Array:
    return _product(ct, b, left=out, right=right, out=left, dots=dots)


def _transpose_right(
    ct: jax.Array, a: Operand, b: Operand, *, left: Axes, right: Axes, out: Axes, dots: bool
) -> jax.Array:
    return _product(ct, a, left=out, right=left, out=right, dots=dots)


def _shape(a: Shape, b: Shape, *, left: Axes, right: Axes, out: Axes, dots: bool) -> Shape:
    sizes = dict(zip((*left, *right), (*a, *b), strict=True))
    return tuple(sizes[axis] for axis in out)


_product = Deferred(
    "product",
    _multiply,
    _multiply_on_cpu,
    shape=_shape,
    batch=_batch,
    differentiate=bilinear(_transpose_left, _transpose_right),
)
