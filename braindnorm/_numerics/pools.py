r"""Divisive normalization, as arithmetic: powers of a drive over those of its pool, at any scale of the drive.

:math:`D^n` leaves the range of floating point long before D does. So a sum of powers is kept as :math:`2^{en} s`: a
binary exponent e, which carries no gradient, and a share s near 1.
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import AxisError
from ..units import Dtype, Shape
from .axes import leading_ones
from .barriers import fence, unknown
from .collectives import place_among_devices, sum_devices
from .moments import Reduction, at_least_one, local_count, zero_masked
from .powers import exponent_of, in_range, limits_of, power, two_to
from .responses import response_to_share
from .scaled_sums import Powers, rectified, sum_of_powers
from .shares import has_shares, share_at, share_of_pool
from .sums import total


class Response(NamedTuple):
    """The kind of response: its exponent, how the pool adds up, whether a negative drive counts as 0.

    With `constant` the drive of the pool is a constant to derivatives.
    """

    exponent: float
    pool: Literal["mean", "sum", "weighted"]
    rectify: bool
    constant: bool = False


class Pool(NamedTuple):
    r"""Pooled powers :math:`2^{en} s`, how many elements were pooled, and of these how many are not finite."""

    exponent: jax.Array
    share: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a pool
    broken: jax.Array


def respond(
    reduction: Reduction,
    response: Response,
    x: jax.Array,
    seen: jax.Array,
    sigma: jax.Array,
    gamma: jax.Array,
    valid: jax.Array | None,
    weights: jax.Array | None,
) -> jax.Array:
    """Return the response of every element, masked ones too, to the pool of the valid ones: the equation itself.

    `seen` is what is pooled: `x`, whatever it holds where it is not valid.
    """
    sigma = leading_ones(sigma, x.ndim)
    mean, n = response.pool == "mean", response.exponent
    powers = Powers(reduction.axes, n, response.rectify, mean, response.constant, reduction.counts)
    if valid is None:  # what makes the drive is computed once, alike beside whatever else uses it
        x = seen = jax.lax.optimization_barrier(x)
    if weights is None and reduction.axis_name is None and has_shares(powers, x, sigma):
        unit, share = share_of_pool(powers, seen.astype(x.dtype), sigma, valid)
        return _respond(response, x, unit, share, gamma)
    # the compiler joins constants, and the product of two of them may be out of range: so it is to know of none
    sigma = jax.lax.optimization_barrier(sigma)
    pool = pool_of(reduction, response, seen.astype(x.dtype), sigma, valid, weights)
    return respond_to(response, x, pool, sigma, gamma)


def pool_of(
    reduction: Reduction,
    response: Response,
    x: jax.Array,
    sigma: jax.Array,
    valid: jax.Array | None,
    weights: jax.Array | None,
) -> Pool:
    """Return the pooled powers of the valid elements, on all devices; a mean is not divided yet."""
    x = jax.lax.stop_gradient(x) if response.constant else x
    pool = _local_pool(x, sigma, valid, reduction, response, weights)
    return pool if reduction.axis_name is None else _device_pool(pool, x.shape, sigma, reduction, response)


def respond_to(response: Response, x: jax.Array, pool: Pool, sigma: jax.Array, gamma: jax.Array) -> jax.Array:
    """Return the response of every element to a pool."""
    exponent, pooled = fence((pool.exponent, _share(response, pool)), size=x.size)
    if jnp.broadcast_shapes(pooled.shape, sigma.shape) == x.shape:
        y: jax.Array = _respond_each(response, x, exponent, pooled, sigma, gamma)
        return y
    # once for each pool, not for each element
    unit, share = fence(share_at(response.exponent, exponent, pooled, sigma), size=x.size)
    return _respond(response, x, unit, share, gamma)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _respond_each(
    response: Response, x: jax.Array, exponent: jax.Array, pooled: jax.Array, sigma: jax.Array, gamma: jax.Array
) -> jax.Array:
    """Return the response where each element has a divisor of its own, which no derivative is to keep in memory."""
    unit, share = share_at(response.exponent, exponent, pooled, sigma, each=True)
    return _respond(response, x, unit, share, gamma)


def _respond(response: Response, x: jax.Array, unit: jax.Array, share: jax.Array, gamma: jax.Array) -> jax.Array:
    drive = rectified(x) if response.rectify else x
    return response_to_share(response.exponent, not response.rectify, drive, unit, share, gamma)


def power_of_pool(response: Response, pool: Pool) -> jax.Array:
    """Return a pool as one number, which may be out of range."""
    return two_to(pool.exponent, response.exponent) * _share(response, pool)


def pool_of_power(response: Response, pooled: jax.Array) -> Pool:
    """Return a number as the pool that it is."""
    positive = jnp.where(pooled > 0, jax.lax.stop_gradient(pooled), 1)
    exponent = in_range(jnp.log2(positive) / response.exponent)
    share = pooled * two_to(-exponent, response.exponent)
    return Pool(exponent, share, jnp.ones_like(pooled), jnp.zeros_like(pooled))


def _share(response: Response, pool: Pool) -> jax.Array:
    # the root of a negative count is NaN, and that of none is 0; a constant NaN would alarm jax_debug_nans
    return (pool.share / at_least_one(pool.count) if response.pool == "mean" else pool.share) + jnp.sqrt(-pool.broken)


def _local_pool(
    x: jax.Array,
    sigma: jax.Array,
    valid: jax.Array | None,
    reduction: Reduction,
    response: Response,
    weights: jax.Array | None,
) -> Pool:
    """Add up the powers of this device."""
    counted = None if valid is None else unknown(valid)
    count = local_count(x.shape, counted, reduction, x.dtype, total=total)
    powers = Powers(reduction.axes, response.exponent, response.rectify)
    if weights is None:
        smallest = jnp.min(jax.lax.stop_gradient(sigma), initial=jnp.inf)
        scale = jnp.full_like(smallest, jnp.nan) if reduction.axis_name is not None else smallest
        e, s = sum_of_powers(powers, x, scale.reshape((1,) * x.ndim), valid)
        return Pool(e, s, count, jax.lax.stop_gradient(jnp.where(jnp.isfinite(s), 0, 1).astype(x.dtype)))
    # the compiler is to know none of these either
    size = powers.size(jax.lax.optimization_barrier(zero_masked(x, valid)), None)
    fixed = jax.lax.stop_gradient(size)
    largest = jnp.max(jnp.where(jnp.isfinite(fixed), fixed, 0), reduction.axes, keepdims=True, initial=0)
    top = jnp.round(jnp.clip(jnp.log2(largest), limits_of(size.dtype)[0], None))
    half = jnp.floor(top / 2)  # the reciprocal of the whole may be out of range
    ratio = size * two_to(-half) * two_to(half - top)
    middle, sums, broken = _weighted(ratio, weights, reduction, response.exponent)
    empty = top if reduction.axis_name is not None else exponent_of(sigma)
    return Pool(*_joined(top + middle, sums, in_range(empty), response.exponent), count, broken)


def _weighted(
    ratio: jax.Array, weights: jax.Array, reduction: Reduction, exponent: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return weighted sums in bands of magnitude, as a row may leave out what is far above the rest.

    The powers of a band fill 7/10 of the range of the dtype, and the bands reach down to 5/8 of its largest exponent;
    one that reached further would have derivatives that leave the range on their way.
    """
    axis, highest = reduction.axes[0], limits_of(ratio.dtype)[1]
    reach = 0.625 * highest
    width = min(1.4 * highest / exponent, reach)
    bands = np.arange(math.ceil(reach / width)).reshape(-1, *[1] * ratio.ndim)
    high = np.where(bands > 0, 2.0 ** (-width * bands), np.inf).astype(ratio.dtype)
    low = np.where(bands < bands.max(), 2.0 ** (-width * (bands + 1)), 0).astype(ratio.dtype)
    middle = np.round(-width * (bands + 0.5))
    finite = jnp.isfinite(ratio)
    inside = (ratio < high) & (ratio >= low) & finite
    powers = power(jnp.where(inside, ratio, 0) * (2.0**-middle).astype(ratio.dtype), exponent)
    # what is not finite is counted, as in a product not even a weight of 0 would keep it out
    stacked = jnp.concatenate([powers, jnp.where(finite, 0, 1).astype(ratio.dtype)[None]])
    totals = jnp.moveaxis(_product(jnp.moveaxis(stacked, axis + 1, -1), weights, reduction), -1, axis + 1)
    sums, broken = totals[:-1], jax.lax.stop_gradient(totals[-1])
    return jnp.asarray(middle, ratio.dtype), sums, broken + jnp.where(jnp.isfinite(sums), 0, 1).sum(0)


def _product(moved: jax.Array, weights: jax.Array, reduction: Reduction) -> jax.Array:
    """Weight the elements of this device; with a matrix for those of all, return what each of them receives."""
    local, rows = moved.shape[-1], len(weights)
    if local != rows:
        place, size = place_among_devices(reduction.axis_name, reduction.axis_index_groups)
        if size is None:  # brainstate looks for new states, with an input of the shape of all devices
            return moved
        _check_rows(reduction, local, size, rows)
        weights = jax.lax.dynamic_slice_in_dim(weights, place * local, local, 1)
    # the default of some accelerators is a product of three digits
    return jnp.matmul(moved, weights.T, precision=jax.lax.Precision.HIGHEST)


def _check_rows(reduction: Reduction, local: int, size: int, rows: int) -> None:
    if local * size != rows:
        raise AxisError(
            f"a pool of {(rows, rows)} weights does not fit {local} elements on each of {size} devices."
            f" Give a matrix of {(local, local)}, by which the elements of every device are weighted alike, or of"
            f" {(local * size, local * size)}, with a row and a column for each element of all devices."
        )


def _device_pool(pool: Pool, shape: Shape, sigma: jax.Array, reduction: Reduction, response: Response) -> Pool:
    """Add the devices' pools, in bands of magnitude that are the same everywhere: one sum, and no maximum."""
    exponent = response.exponent
    middle, low, high = (v.reshape(-1, *[1] * len(shape)) for v in _bands(exponent, pool.share.dtype))
    inside = (pool.exponent >= low) & (pool.exponent < high) & jnp.isfinite(pool.share)
    moved = two_to(jnp.where(inside, pool.exponent - middle, 0), exponent)
    banded = moved * jnp.where(inside, pool.share, 0)
    besides = [jnp.broadcast_to(v, pool.share.shape)[None] for v in (pool.count, pool.broken)]
    stacked = jnp.concatenate([banded, *besides])
    totals = sum_devices(stacked, reduction.axis_name, reduction.axis_index_groups)
    for axis in reduction.axes:
        if totals.shape[axis + 1] not in (1, shape[axis]):  # rows for the elements of all devices
            place, _ = place_among_devices(reduction.axis_name, reduction.axis_index_groups)
            totals = jax.lax.dynamic_slice_in_dim(totals, place * shape[axis], shape[axis], axis + 1)
    empty = exponent_of(sigma if response.pool == "weighted" else jnp.zeros_like(sigma, shape=()))
    joined = _joined(middle, totals[:-2], empty, exponent)
    return Pool(*joined, totals[-2], jax.lax.stop_gradient(totals[-1]))


def _joined(
    exponents: jax.Array | np.ndarray, sums: jax.Array, empty: jax.Array, exponent: float
) -> tuple[jax.Array, jax.Array]:
    """Add sums of different binary exponents, along the first axis.

    `empty` is the exponent where all sums are 0: one at which the derivative in the weights is in range.
    """
    fixed = jax.lax.stop_gradient(sums)
    largest = in_range((exponents + jnp.log2(fixed) / exponent).max(0))
    largest = jnp.where((fixed == 0).all(0), empty, largest)
    # a term without any sum may lie so far above the largest that its power would overflow
    steps = jnp.clip(exponents - largest, None, (limits_of(sums.dtype)[1] - 3) / exponent)
    return largest, (two_to(steps, exponent) * sums).sum(0)


def _bands(exponent: float, dtype: Dtype) -> tuple[np.ndarray, ...]:
    """Return the binary exponents in the middle of bands, and at their lower and upper edges."""
    lowest, highest = limits_of(dtype)
    edges = np.linspace(lowest, highest, math.ceil((highest - lowest) * exponent / (1.2 * highest)) + 1)
    low, high = np.array([-np.inf, *edges[1:-1]]), np.array([*edges[1:-1], np.inf])
    middle = np.round((edges[1:] + edges[:-1]) / 2)
    return middle.astype(dtype), low.astype(dtype), high.astype(dtype)
