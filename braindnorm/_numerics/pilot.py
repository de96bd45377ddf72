"""A centre near the mean of what a mask leaves, mostly without a pass through all of it.

Any centre is algebraically exact. One from which the mean is few standard deviations away leaves a sum of deviations
its digits; the mean of some of the elements is such a centre.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..units import Shape
from .axes import sum_groups
from .barriers import unknown
from .cleared import cleared
from .counts import LEAST, Counts, pilot_axis, sixteenth
from .deferred import TINY, Deferred, is_constant, lanes_first, no_derivative
from .moments import Reduction, anywhere, local_count
from .sums import kept_shape, total

# a mask leaves something of so many elements, in every group; of fewer it often leaves some group nothing
ENOUGH = 32


def centre(x: jax.Array, valid: jax.Array, reduction: Reduction) -> jax.Array:
    """Return a number near the mean of the valid elements of each group, with the axes kept and without a gradient.

    On a CPU it is the mean of the first sixteenth of a reduced axis, if that has one in 64 of the valid elements of
    every group.
    """
    near_mean: jax.Array = _centre(jax.lax.stop_gradient(x), valid, reduction=reduction)
    return near_mean


def _count(x: jax.Array, valid: jax.Array, reduction: Reduction) -> jax.Array:
    return local_count(x.shape, unknown(valid), reduction, x.dtype, total=total)


def _mean(x: jax.Array, valid: jax.Array, count: jax.Array, reduction: Reduction) -> jax.Array:
    summed = total(cleared(x, valid), reduction.axes)
    if reduction.channel_axis is not None:
        summed = sum_groups(summed, reduction.channel_axis, reduction.num_groups)
    return summed / jnp.maximum(count, 1)


def _of_all(x: jax.Array, valid: jax.Array, *, reduction: Reduction) -> jax.Array:
    return _mean(x, valid, _count(x, valid, reduction), reduction)


def _of_some(x: jax.Array, valid: jax.Array, *, reduction: Reduction) -> jax.Array:
    if is_constant(x.shape) and x.size <= TINY:
        return _of_all(x, valid, reduction=reduction)
    counts = reduction.counts
    axis = pilot_axis(x.shape, valid.shape, reduction.axes)
    x_part, valid_part = (first_sixteenth(v, axis) for v in (x, valid))
    sizes = [x_part.shape[axis] for axis in reduction.axes]
    few = valid.shape[axis] != 1 and is_constant(sizes) and math.prod(sizes) < ENOUGH
    if few if counts is None else counts.missed:
        return _of_all(x, valid, reduction=reduction)
    of_part = reduction if counts is None else reduction._replace(counts=Counts(counts.part, counts.part))
    count_of_part = _count(x_part, valid_part, of_part)
    near = _mean(x_part, valid_part, count_of_part, reduction)
    if valid.shape[axis] == 1 or counts is not None:
        return near
    count = _count(x, valid, reduction)
    missed = anywhere(count_of_part * LEAST < count, x.dtype)
    near_mean: jax.Array = jax.lax.cond(
        missed,
        lambda x, valid, count, near: _mean(x, valid, count, reduction),
        lambda x, valid, count, near: near,
        *(x, valid, count, near),
    )
    return near_mean


def first_sixteenth(v: jax.Array, axis: int) -> jax.Array:
    return v if v.shape[axis] == 1 else jax.lax.slice_in_dim(v, 0, sixteenth(v.shape[axis]), axis=axis)


def _batch(values: Sequence[Any], dims: Sequence[Any], *, reduction: Reduction) -> tuple[jax.Array, int]:
    return _centre(*lanes_first(values, dims), reduction=reduction.behind_lanes()), 0


def _shape(x: Shape, valid: Shape, *, reduction: Reduction) -> Shape:
    # lanes may differ in their masks alone
    return kept_shape(tuple(m if n == 1 else n for n, m in zip(x, valid, strict=True)), axes=reduction.axes)


_centre = Deferred("centre", _of_all, _of_some, shape=_shape, batch=_batch, differentiate=no_derivative)
