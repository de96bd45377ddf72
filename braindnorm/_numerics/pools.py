r"""Divisive normalization, as arithmetic: powers of a drive over those of its pool, at any scale of the drive.

:math:`D^n` leaves the range of floating point long before D does. So the drive is cut into bands of magnitude, each
with a scale of its own at which no power overflows or vanishes; the bands are summed apart, and then added at the scale
of the pool. The bands are the same everywhere: a pool across devices takes one sum, and no maximum.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import AxisError
from .collectives import place_among_devices, sum_devices
from .moments import Reduction, at_least_one, local_count, zero_masked


class Response(NamedTuple):
    """The kind of response: its exponent, how the pool adds up, and whether a negative drive counts as 0."""

    exponent: float
    pool: Literal["mean", "sum", "weighted"]
    rectify: bool


class Pool(NamedTuple):
    r"""The pooled drive of each element, :math:`P = s^n p`, as a scale s without a gradient and the rest p."""

    scale: jax.Array
    share: jax.Array


def respond(
    over: Reduction,
    how: Response,
    x: jax.Array,
    sigma: jax.Array,
    gamma: jax.Array,
    valid: jax.Array | None,
    weights: jax.Array | None,
) -> jax.Array:
    """Return the response of every element, masked ones too, to the pool of the valid ones: the equation itself."""
    n = how.exponent
    drive = jnp.where(x <= 0, 0, x) if how.rectify else x  # not maximum, whose slope at 0 is a half
    pool = _pooled(zero_masked(jnp.abs(drive), valid), valid, over, how, weights)
    # R keeps its value when drive, sigma and pool are multiplied by one number: any will do, and carries no gradient.
    limit = 2.0 ** (_range(x.dtype)[1] - 2)  # whose reciprocal is normal
    # XLA makes a / (b c) of a / b / c and a^2 / b^2 of (a / b)^2, which may be out of range: the barrier hides 1 / b
    unit = jax.lax.optimization_barrier(1 / jax.lax.stop_gradient(jnp.clip(sigma, pool.scale, limit)))
    divisor = _scaled_power(sigma, unit, n) + _scaled_power(pool.scale, unit, n) * pool.share
    responds = ~(divisor <= 0)  # what is NaN is to be seen
    numerator = _signed_power(jnp.where(responds, drive, 0), unit, n)
    return gamma * (numerator / jnp.where(responds, divisor, 1))


def _pooled(
    size: jax.Array, valid: jax.Array | None, over: Reduction, how: Response, weights: jax.Array | None
) -> Pool:
    """Sum the bands apart, and add them at the scale of the largest sum."""
    centres, (low, high) = _bands(how.exponent, size.dtype)
    centres, low, high = (v.reshape(-1, *[1] * size.ndim).astype(size.dtype) for v in (centres, low, high))
    finite = jnp.isfinite(size)
    inside = (size >= low) & (size < high) & finite
    powers = _power(jnp.where(inside, size, 0) / 2.0**centres, how.exponent)
    # what is not finite is counted, as it would leave its pool in a product with a weight of 0
    stacked = jnp.concatenate([jnp.where(finite, 0, 1).astype(size.dtype)[None], powers])
    if weights is None:
        totals, unit = _summed(stacked, valid, over, how), jnp.zeros((), size.dtype)
    else:
        totals, unit = _weighted(stacked, weights, over, how.exponent)
    broken, sums = totals[0], totals[1:]
    largest = centres + jnp.log2(jax.lax.stop_gradient(sums)) / how.exponent
    lowest, highest = _range(size.dtype)
    scale = jnp.round(jnp.clip(largest.max(0) + unit, lowest + 1, highest - 2))
    # a band without any sum may lie so far above the scale that its power would overflow
    steps = jnp.clip(centres + unit - scale, None, (highest - 3) / how.exponent)
    share = (_two_to(steps, how.exponent) * sums).sum(0)
    # the root of a negative count is NaN, and that of none is 0; a constant NaN would alarm jax_debug_nans
    return Pool(_two_to(scale), share + jnp.sqrt(-jax.lax.stop_gradient(broken)))


def _bands(exponent: float, dtype: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the binary exponents of the bands' scales, and the edges between them.

    Within a band the powers cover 7/10 of the range of the dtype; the rest is for their number and their weights.
    """
    lowest, highest = _range(dtype)
    edges = np.linspace(lowest, highest, math.ceil((highest - lowest) * exponent / (1.4 * highest)) + 1)
    centres = np.round((edges[1:] + edges[:-1]) / 2).clip(edges[0] + 1, edges[-1] - 2)
    inner = 2.0 ** edges[1:-1]
    return centres, np.array([[0, *inner], [*inner, np.inf]])


def _range(dtype: Any) -> tuple[int, int]:
    """Return the binary exponents between which numbers are normal."""
    limits = np.finfo(dtype)
    return int(limits.minexp), int(limits.maxexp)


def _summed(stacked: jax.Array, valid: jax.Array | None, over: Reduction, how: Response) -> jax.Array:
    """Return the sums of the bands, or their means over the valid elements."""
    totals = jnp.sum(stacked, [axis + 1 for axis in over.axes], keepdims=True)
    if how.pool == "sum":
        return _across(totals, over)
    count = local_count(stacked.shape[1:], valid, over, stacked.dtype)
    counted = _across(jnp.concatenate([jnp.broadcast_to(count, totals.shape[1:])[None], totals]), over)
    return counted[1:] / at_least_one(counted[0])


def _weighted(stacked: jax.Array, weights: jax.Array, over: Reduction, exponent: float) -> tuple[jax.Array, jax.Array]:
    r"""Return the weighted sums of the bands, each to be multiplied by :math:`2^{kn}`, and these k.

    k is that of the largest weight of the row. A matrix with a row for the elements of all devices takes from each
    device its columns, and hands to each its rows.
    """
    axis, rows = over.axes[0], len(weights)
    largest = jax.lax.stop_gradient(weights.max(1))
    unit = jnp.round(jnp.log2(jnp.where(largest == 0, 1, largest)) / exponent)
    weights = weights / _two_to(unit, exponent)[:, None]
    moved = jnp.moveaxis(stacked, axis + 1, -1)
    local = moved.shape[-1]
    if local == rows:
        totals = _across(_product(moved, weights), over)
    else:
        place, size = place_among_devices(over.axis_name, over.axis_index_groups)
        if size is None:  # brainstate looks for new states, with an input of the shape of all devices
            return stacked, jnp.zeros((), stacked.dtype)
        _check_rows(over, local, size, rows)
        place = place * local
        columns = jax.lax.dynamic_slice_in_dim(weights, place, local, 1)
        totals = _across(_product(moved, columns), over)
        totals, unit = (jax.lax.dynamic_slice_in_dim(v, place, local, v.ndim - 1) for v in (totals, unit))
    spare = stacked.ndim - 2 - axis
    return jnp.moveaxis(totals, -1, axis + 1), unit.reshape(-1, *[1] * spare)


def _product(moved: jax.Array, weights: jax.Array) -> jax.Array:
    # the default of some accelerators is a product of three digits
    return jnp.matmul(moved, weights.T, precision=jax.lax.Precision.HIGHEST)


def _check_rows(over: Reduction, local: int, size: int, rows: int) -> None:
    if local * size != rows:
        raise AxisError(
            f"a pool of {(rows, rows)} weights does not fit {local} elements on each of {size} devices."
            f" Give a matrix of {(local, local)}, by which the elements of every device are weighted alike, or of"
            f" {(local * size, local * size)}, with a row and a column for each element of all devices."
        )


def _across(totals: jax.Array, over: Reduction) -> jax.Array:
    if over.axis_name is None:
        return totals
    return sum_devices(totals, over.axis_name, over.axis_index_groups)


def _two_to(power: jax.Array, exponent: float = 1.0) -> jax.Array:
    """Return a power of two to the power of n; for whole ones exactly."""
    two = jnp.asarray(2, power.dtype)  # exp2 is off by some ulp
    if exponent < 1:  # the first power may be out of range
        return jnp.power(two, power * exponent)
    return _power(jnp.power(two, power), exponent)


def _power(magnitude: jax.Array, exponent: float) -> jax.Array:
    """Return a magnitude to the power of n, with a finite derivative at 0."""
    if exponent == int(exponent):
        return jax.lax.integer_pow(magnitude, int(exponent))
    zero = magnitude <= 0
    return jnp.where(zero, 0, jnp.where(zero, 1, magnitude) ** exponent)


def _scaled_power(a: jax.Array, unit: jax.Array, exponent: float) -> jax.Array:
    """Return (a u)^n; for n < 1 the product may be out of range, and the power not."""
    return _power(a * unit, exponent) if exponent >= 1 else _power(a, exponent) * _power(unit, exponent)


def _signed_power(drive: jax.Array, unit: jax.Array, exponent: float) -> jax.Array:
    """Return sign(D) |D u|^n; for n = 1 this is D u, with a derivative at 0."""
    if exponent < 1:
        return jnp.sign(drive) * _scaled_power(jnp.abs(drive), unit, exponent)
    scaled = drive * unit
    return scaled if exponent == 1 else scaled * _power(jnp.abs(scaled), exponent - 1)
