"""Sums, and what transposes to them, as the platform of a program wants them."""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ..units import Shape
from .axes import is_trailing, sum_groups
from .barriers import Sizes
from .deferred import TINY, Deferred, Operand, is_constant, linear, same_shape, shape_of
from .shapes import Float, Statistic, Values

Axes = Shape

# XLA for CPU sums short rows faster as products with ones, and small arrays that it divides among its threads
SHORT, DIVIDED, SMALL = 8, 2**15, 2**16
# of as many elements such a product keeps its digits; a longer one loses them, and in between that of older releases
PRODUCTS = frozenset([*range(2, 33), *range(100, 513)])
# from as many columns on it goes through the rows in strides, one column at a time
WIDE = 2**14


def sizes_of_products(shape: Sequence[int], axes: Axes) -> Sizes:
    """Return the sizes of arrays, with all the lanes of ``vmap``, whose sums over these axes are products on a CPU."""
    if not is_constant(shape) or not is_trailing(axes, len(shape)):
        return ()
    n = math.prod(shape[axis] for axis in axes)
    return (range((TINY if n <= SHORT else DIVIDED) + 1, SMALL + 1),) if n in PRODUCTS else ()


def total(v: Values, axes: Sequence[int]) -> Statistic:
    """Return the sum over the axes, which are kept."""
    return _total(v, axes=tuple(axes))


def spread(v: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Return `v` broadcast to a shape of as many axes. Its transpose is :func:`total`."""
    axes = tuple(axis for axis, n in enumerate(shape) if v.shape[axis] != n)
    return v if not axes else _spread(v, axes=axes, sizes=tuple(shape[axis] for axis in axes))


def plain_sum(v: Values, *, axes: Axes) -> Statistic:
    return jnp.sum(v, axes, keepdims=True, dtype=v.dtype)


def plain_count(v: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Sum 0 and 1: XLA for CPU sums floats ten times as fast as integers along several axes, where they are exact."""
    return _count(v, axes=tuple(axes), sum_over=plain_sum)


def _count(v: jax.Array, *, axes: Axes, sum_over: Callable[..., jax.Array]) -> jax.Array:
    most = math.prod(v.shape[axis] for axis in axes)
    exact = isinstance(most, int) and most <= 2**24
    return sum_over(v.astype(jnp.float32), axes=axes).astype(v.dtype) if exact else plain_sum(v, axes=axes)


def _count_on_cpu(v: jax.Array, *, axes: Axes) -> jax.Array:
    """Sum 0 and 1: as integers where XLA does not write what they are made of to memory first."""
    long = [axis for axis in axes if v.shape[axis] != 1]
    if is_constant(v.shape) and v.size > TINY:
        before_few = len(long) == 1 and 1 < math.prod(v.shape[long[0] + 1 :]) < WIDE
        if not before_few and (len(long) != 1 or v.shape[long[0]] > 32):
            return _count(v, axes=axes, sum_over=sum_on_cpu)
    return plain_sum(v, axes=axes)


def sum_on_cpu(v: Values, *, axes: Axes) -> Statistic:
    """Sum as XLA for CPU does fastest without a loss of digits."""
    if jnp.issubdtype(v.dtype, jnp.integer):
        return _count_on_cpu(v, axes=axes)
    if not axes or not is_constant(v.shape) or axes != tuple(range(axes[0], axes[-1] + 1)):
        return plain_sum(v, axes=axes)
    rows, n = math.prod(v.shape[: axes[0]]), math.prod(v.shape[axis] for axis in axes)
    kept = kept_shape(v.shape, axes=axes)
    if not is_trailing(axes, v.ndim):
        columns = math.prod(v.shape[axes[-1] + 1 :])
        if 1 < n < 4:
            return functools.reduce(operator.add, jnp.split(v.reshape(rows, n, columns), n, 1)).reshape(kept)
        if columns < WIDE or n <= 1:
            return _of_long_axes(v, axes).reshape(kept)
        return _by_eighths(v.reshape(rows, n, columns)).reshape(kept)
    if any(v.size in sizes for sizes in sizes_of_products(v.shape, axes)):
        return (v.reshape(rows, n) @ jnp.ones(n, v.dtype)).reshape(kept)
    # a whole array as one row: fewer digits are lost
    if len(axes) == v.ndim > 1 and TINY < v.size <= SMALL:
        return jnp.sum(v.reshape(1, -1), 1).reshape(kept)
    return plain_sum(v, axes=axes)


def _of_long_axes(v: jax.Array, axes: Axes) -> jax.Array:
    """Sum without the axes of length 1, as ``vmap`` leaves them, between which XLA takes four times as long."""
    shape = [n for n in v.shape if n != 1]
    place = {axis: i for i, axis in enumerate(axis for axis, n in enumerate(v.shape) if n != 1)}
    return jnp.sum(v.reshape(shape), tuple(place[axis] for axis in axes if axis in place))


def _by_eighths(v: Float[jax.Array, "before rows after"]) -> Float[jax.Array, "before 1 after"]:
    """Sum over the middle one of three axes, eighth upon eighth of it.

    XLA makes one pass of what makes the numbers and of the first additions. The others are products with ones, since
    additions it would repeat for each element of what uses the sum. The digits are those of sums of few numbers.
    """
    n = v.shape[1]
    parts = 8 if n >= 16 else n // 2
    length = n // parts
    first = functools.reduce(operator.add, [v[:, i * length : (i + 1) * length] for i in range(parts)])
    summed = _by_products(first)
    return summed if parts * length == n else summed + _by_products(v[:, parts * length :])


def _by_products(v: jax.Array) -> jax.Array:
    """Sum over the middle one of three axes by products with ones, each of few rows."""
    parts = []
    while (n := v.shape[1]) > 32:
        length = n // 8
        if n > 8 * length:
            parts.append(_times_ones(v[:, 8 * length :]))
        rows, columns = v.shape[0], v.shape[2]
        v = _times_ones(v[:, : 8 * length].reshape(rows, 8, -1)).reshape(rows, length, columns)
    return functools.reduce(operator.add, parts, _times_ones(v))


def _times_ones(v: jax.Array) -> jax.Array:
    if v.shape[0] == 1:
        return (jnp.ones(v.shape[1], v.dtype) @ v[0])[None, None]
    summed = jax.lax.dot_general(jnp.ones(v.shape[:2], v.dtype), v, (((1,), (1,)), ((0,), (0,))))
    return summed[:, None]


def _broadcast(v: jax.Array, *, axes: Axes, sizes: Axes) -> jax.Array:
    return jnp.broadcast_to(v, _wide_shape(v.shape, axes=axes, sizes=sizes))


def kept_shape(shape: Shape, *, axes: Axes) -> Shape:
    """Return the shape of a sum over the axes, which are kept."""
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def _wide_shape(shape: Shape, *, axes: Axes, sizes: Axes) -> Shape:
    to = dict(zip(axes, sizes, strict=True))
    return tuple(to.get(axis, size) for axis, size in enumerate(shape))


def _batch_total(values: Sequence[jax.Array], dims: Sequence[int], *, axes: Axes) -> tuple[jax.Array, int]:
    return _total(jnp.moveaxis(values[0], dims[0], 0), axes=tuple(axis + 1 for axis in axes)), 0


def _batch_spread(
    values: Sequence[jax.Array], dims: Sequence[int], *, axes: Axes, sizes: Axes
) -> tuple[jax.Array, int]:
    moved = jnp.moveaxis(values[0], dims[0], 0)
    return _spread(moved, axes=tuple(axis + 1 for axis in axes), sizes=sizes), 0


def _transpose_total(ct: jax.Array, v: Operand, *, axes: Axes) -> list[jax.Array]:
    return [_spread(ct, axes=axes, sizes=tuple(shape_of(v)[axis] for axis in axes))]


def _transpose_spread(ct: jax.Array, v: Operand, *, axes: Axes, sizes: Axes) -> list[jax.Array]:
    return [_total(ct, axes=axes)]


_total = Deferred(
    "total", plain_sum, sum_on_cpu, shape=kept_shape, batch=_batch_total, differentiate=linear(_transpose_total)
)
_spread = Deferred(
    "spread", _broadcast, _broadcast, shape=_wide_shape, batch=_batch_spread, differentiate=linear(_transpose_spread)
)


def total_of_groups(v: Values, channel_axis: int, num_groups: int) -> Values:
    """Sum over the channels of each group, and give the sum to each of them. It is its own transpose."""
    return _group_total(v, axis=channel_axis, groups=num_groups)


def _group_sum(v: Values, *, axis: int, groups: int) -> Values:
    return sum_groups(v, axis, groups)


def _group_sum_on_cpu(v: Values, *, axis: int, groups: int) -> Values:
    """Sum small groups as a product with ones: XLA for CPU would take a sum into the pass over x that follows."""
    size = v.shape[axis] // groups
    if not is_constant(v.shape) or math.prod(v.shape[axis + 1 :]) != 1 or size > 64 or v.size <= TINY:
        return sum_groups(v, axis, groups)
    return (v.reshape(-1, size) @ jnp.ones((size, size), v.dtype)).reshape(v.shape)


def _batch_groups(values: Sequence[jax.Array], dims: Sequence[int], *, axis: int, groups: int) -> tuple[jax.Array, int]:
    return _group_total(jnp.moveaxis(values[0], dims[0], 0), axis=axis + 1, groups=groups), 0


def _transpose_groups(ct: jax.Array, v: Operand, *, axis: int, groups: int) -> list[jax.Array]:
    return [_group_total(ct, axis=axis, groups=groups)]


_group_total = Deferred(
    "group_total",
    _group_sum,
    _group_sum_on_cpu,
    shape=same_shape,
    batch=_batch_groups,
    differentiate=linear(_transpose_groups),
)
