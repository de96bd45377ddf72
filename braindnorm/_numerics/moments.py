r"""Moments that merge: the one mechanism under masks, devices, groups and time.

:class:`Moments` holds how many valid elements there are, their mean, and the sum of squared deviations from it. Two of
them merge exactly (Chan, Golub and LeVeque 1979, STAN-CS-79-773). The mask and the collective enter the statistics
here, in :func:`deviations`, and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..units import DtypeLike, Mantissa
from .axes import one_of_each_group, sum_groups
from .collectives import AxisName, sum_devices, varying
from .counts import Counts
from .deferred import is_explicit
from .shapes import Mask, Statistic, Values
from .sums import plain_count, total


class Moments(NamedTuple):
    """The count, the mean and the centred sum of squares of a set of numbers."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody asks of moments
    mean: jax.Array
    m2: jax.Array

    @property
    def var(self) -> jax.Array:
        """The (population) variance; 0 where nothing was counted."""
        return self.m2 / at_least_one(self.count)


class Reduction(NamedTuple):
    """What a statistic runs over.

    `axes` are summed; the channels of `channel_axis` are summed within each of `num_groups` groups; devices along
    `axis_name` (in `axis_index_groups`) are summed last. `name` is what errors call the norm. `counts` are those of the
    valid elements on this device, where they are known before.
    """

    axes: tuple[int, ...]
    channel_axis: int | None = None
    num_groups: int = 1
    axis_name: AxisName | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    name: str = "moments"
    counts: Counts | None = None

    def behind_lanes(self) -> "Reduction":
        """Return the same of an array with one more leading axis, as ``vmap`` gives it."""
        channel = None if self.channel_axis is None else self.channel_axis + 1
        return self._replace(axes=tuple(axis + 1 for axis in self.axes), channel_axis=channel)


def local_sum(v: Values, reduction: Reduction) -> Statistic:
    """Sum `v` over the axes and within the channel groups, on this device, keeping the axes."""
    summed = total(v, reduction.axes)
    if reduction.channel_axis is None:
        return summed
    return sum_groups(summed, reduction.channel_axis, reduction.num_groups)


def local_count(
    shape: Sequence[int],
    valid: jax.Array | None,
    reduction: Reduction,
    dtype: DtypeLike,
    *,
    total: Callable[[jax.Array, Sequence[int]], jax.Array] = plain_count,
) -> jax.Array:
    """Count the valid elements of an array of this shape. The mask is counted as it came, before it is broadcast.

    `total` sums over axes, and keeps them.
    """
    if reduction.counts is not None:
        known = reduction.counts.whole.array
        return jnp.asarray(known.reshape((1,) * (len(shape) - known.ndim) + known.shape), dtype)  # without vmap's axes
    mask_shape = (1,) * len(shape) if valid is None else valid.shape
    repeats = math.prod(shape[axis] for axis in reduction.axes if mask_shape[axis] == 1)
    counted = jnp.ones((), dtype) if valid is None else total(valid.astype(jnp.int32), reduction.axes)
    if reduction.channel_axis is not None:
        if mask_shape[reduction.channel_axis] == 1:
            repeats *= shape[reduction.channel_axis] // reduction.num_groups
        else:
            counted = sum_groups(counted, reduction.channel_axis, reduction.num_groups)
    return counted.astype(dtype) * repeats


def whole_groups(reduction: Reduction, mask_shape: Sequence[int]) -> bool:
    """Tell whether a mask of this shape, as it came, has one entry for each group."""
    axes = reduction.axes if reduction.channel_axis is None else (*reduction.axes, reduction.channel_axis)
    return all(mask_shape[axis] == 1 for axis in axes)


def across_devices(totals: Sequence[jax.Array], reduction: Reduction) -> Sequence[jax.Array]:
    """Sum local totals over the devices. However many the totals, it is one collective, with one number a statistic."""
    if reduction.axis_name is None:
        return totals
    stacked = jnp.stack(jnp.broadcast_arrays(*totals))
    if reduction.channel_axis is None:
        return list(sum_devices(stacked, reduction.axis_name, reduction.axis_index_groups))
    axis = reduction.channel_axis + 1
    of_groups = one_of_each_group(stacked, axis, reduction.num_groups)
    summed = sum_devices(of_groups, reduction.axis_name, reduction.axis_index_groups)
    # before it is repeated: so the backward pass exchanges no more either
    summed = varying(summed, reduction.axis_name)
    return list(jnp.repeat(summed, stacked.shape[axis] // reduction.num_groups, axis))


def zero_masked(x: Values, valid: Mask) -> Values:
    """Return `x` with zeros where it is not valid: before any arithmetic, so that NaN in the padding goes nowhere."""
    if valid is None:
        return x
    if is_explicit(x) or is_explicit(valid):  # a number brings the mask to the sharding of x
        return jnp.where(valid, x, 0)
    return choose(valid, x, jax.lax.full_like(x, 0))


def choose(where: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return `a` where the condition holds, and `b` elsewhere: ``jnp.where``, but no function apart in the program.

    Such a function takes as long to differentiate and to compile as all that it stands in.
    """
    shape = jnp.broadcast_shapes(where.shape, a.shape, b.shape)
    chosen: jax.Array = jax.lax.select(*(jnp.broadcast_to(v, shape) for v in (where, a, b)))
    return chosen


def anywhere(where: jax.Array, dtype: DtypeLike) -> jax.Array:
    """Tell whether a condition holds anywhere: as numbers, which XLA for CPU compiles in half the time of an "or"."""
    return jnp.max(where.astype(dtype), initial=0) > 0


def deviations(
    x: Values,
    reduction: Reduction,
    valid: Mask = None,
    *,
    centred: bool = True,
    constant: bool = False,
) -> tuple[Moments, Values]:
    r"""Return the moments of the valid elements of `x`, and each element's deviation from the mean.

    With :math:`K` a centre near the mean that carries no gradient (any :math:`K` is algebraically exact),

    .. math:: d = x - K, \quad \delta = \tfrac1n \sum d, \quad m_2 = \sum d^2 - n\,\delta^2,
       \quad x - \mu = d - \delta .

    :math:`K + \delta` is not formed on the way to the deviations, so nothing cancels: -65 mV with a spread of 0.01 mV
    keeps all its digits. With `centred` False the centre is held at 0 and :math:`m_2 = \sum x^2`. With `constant` the
    moments are constants, and the derivative of a deviation is that of its element.

    The deviation of a masked element is its own, and must be finite to differentiate through.
    """
    held = jax.lax.stop_gradient if constant else _as_it_is
    seen = held(zero_masked(x, valid))
    count = local_count(x.shape, valid, reduction, x.dtype)
    if not centred:
        count, m2 = across_devices([count, local_sum(seen * seen, reduction)], reduction)
        return Moments(count, jnp.zeros_like(m2), m2), x
    count, total = across_devices([count, local_sum(jax.lax.stop_gradient(seen), reduction)], reduction)
    n = at_least_one(count)
    centre = total / n
    raw = x - centre
    d = held(zero_masked(raw, valid))
    s, q = across_devices([local_sum(d, reduction), local_sum(d * d, reduction)], reduction)
    delta = s / n
    m2 = jnp.maximum(q / n - delta * delta, 0) * n
    return Moments(count, centre + delta, m2), raw - delta


def _as_it_is(v: jax.Array) -> jax.Array:
    return v


def at_least_one(count: jax.Array) -> jax.Array:
    """Return the count as a divisor: 1 where nothing was counted.

    The barrier keeps XLA from replacing a division by a constant with a multiplication by its rounded reciprocal, which
    would leave a constant shift a tangent that is not exactly 0.
    """
    divisor: jax.Array = jax.lax.optimization_barrier(jnp.maximum(count, 1))
    return divisor


def merge(a: Moments, b: Moments) -> Moments:
    r"""Return the moments of two sets together (Chan, Golub and LeVeque 1979).

    .. math:: n = n_a + n_b, \quad \Delta = \mu_b - \mu_a, \quad \mu = \mu_a + \Delta \tfrac{n_b}{n}, \quad
       m_2 = m_{2,a} + m_{2,b} + \Delta^2 \tfrac{n_a n_b}{n} .
    """
    count = a.count + b.count
    share = b.count / jnp.where(count > 0, count, 1)
    step = b.mean - a.mean
    return Moments(count, a.mean + step * share, a.m2 + b.m2 + step * step * a.count * share)


def rstd(var: Statistic, epsilon: Mantissa) -> Statistic:
    """Return 1/sqrt(var + epsilon), and 0 where that sum is 0: a constant group is then 0. What is NaN stays NaN."""
    total = var + epsilon
    return jax.lax.rsqrt(choose(total <= 0, jax.lax.full_like(total, jnp.inf), total))
