r"""What a drive is multiplied by, before the power and after it: :math:`R = \gamma\,(D u)^n s`.

.. math:: u = 2^{-e}, \quad s = \frac{1}{(\sigma u)^n + \operatorname{pool}_j (D_j u)^n}

with any e, and so a unit u that carries no gradient, for pools of whole axes of one device, beside a sigma that is one
number for each pool. In double precision no power of a single-precision number leaves the range up to n = 7. A program
for a CPU so takes small sums in it, and larger ones only if one of them has left the range of single precision.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Shape
from .barriers import fence, unknown
from .deferred import TINY, Deferred, by_tangents
from .moments import Reduction, choose, local_count, zero_masked
from .powers import limits_of, power, scaled_power, two_to, unit_of
from .scaled_sums import LOST, MOST, Powers, by_largest, every_lane, fits_double, root_of, sum_in_double
from .shapes import Mask, Statistic, Values
from .sums import kept_shape, total

Pair = tuple[Statistic, Statistic]
# the drive, sigma, the mask
Primals = tuple[Values, Statistic, Mask]


def has_shares(powers: Powers, x: Values, sigma: Statistic) -> bool:
    """Tell whether there is a share for each pool: one sigma for each, and a power that double precision holds."""
    whole = powers.exponent == int(powers.exponent) <= MOST and x.dtype == np.float32
    several = any(x.shape[axis] != 1 for axis in powers.axes)
    return whole and several and all(sigma.shape[axis] == 1 for axis in powers.axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def share_of_pool(powers: Powers, x: Values, sigma: Statistic, valid: Mask) -> Pair:
    """Return the unit and the share of each pool, with the pooled axes kept.

    Parameters
    ----------
    powers : Powers
        What is pooled.
    x : Array
        The drive. A valid one that is not finite makes the share NaN.
    sigma : Array
        The semi-saturation constant, of as many axes, and of length 1 along those that are pooled.
    valid : Array or None
        The mask. It comes here with `x` as it is, since what a branch of a program is given is written to memory.
    """
    unit, share = _shared(x, sigma, *(() if valid is None else (valid,)), powers=powers)
    return unit, share


@share_of_pool.defjvp
def _jvp(powers: Powers, primals: Primals, tangents: tuple[Values, Statistic, object]) -> tuple[Pair, Pair]:
    unit, share = share_of_pool(powers, *primals)
    return (unit, share), (jnp.zeros_like(unit), _tangent(powers, primals, (unit, share), tangents[:2]))


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _tangent(powers: Powers, primals: Primals, pair: Pair, tangents: tuple[Values, Statistic]) -> Statistic:
    (x, sigma, valid), (unit, share), n = primals, pair, powers.exponent
    of_divisor: Statistic = jax.jvp(lambda v: scaled_power(v, unit, n), (sigma,), tangents[1:])[1]
    if not powers.constant:
        size, dsize = jax.jvp(lambda x: powers.size(x, valid), (x,), tangents[:1])
        once = fence(unit, size=x.size)
        # in this order, or what is in range in the end would leave it on the way
        slope = n * power(size * once, n - 1)
        of_divisor = of_divisor + total(slope * (dsize * once), powers.axes) / _number(powers, x, valid)
    return -share * (share * of_divisor)


def _number(powers: Powers, x: Values, valid: Mask) -> Statistic | float:
    """Return by what a sum of powers is divided to be the pool."""
    if not powers.mean:
        return 1.0
    if valid is None:
        return float(math.prod(x.shape[axis] for axis in powers.axes)) or 1.0
    reduction = Reduction(powers.axes, counts=powers.counts)
    return jnp.maximum(local_count(x.shape, unknown(valid), reduction, x.dtype, total=total), 1)


def share_at(n: float, e: Statistic, pooled: Statistic, sigma: Statistic, *, each: bool = False) -> Pair:
    """Return the unit and the share of a pool of two to the power of e n, times what is pooled.

    R keeps its value when drive, sigma and pool are multiplied by one number: any will do, and carries no gradient.
    It is a product, as XLA makes a / (b c) of a / b / c, and this b c may be out of range.

    Of each pool they are quotients, each of them the last step: XLA for CPU takes what is cheaper than a quotient into
    the pass over x, once for each element. There it is to be where they are of `each` element.
    """
    size, limit = two_to(e), 2.0 ** (limits_of(pooled.dtype)[1] - 2)  # whose reciprocal is normal
    base = jax.lax.stop_gradient(jnp.clip(sigma, size, limit))
    unit = unit_of(base) if each else 1 / base
    divisor = scaled_power(sigma, unit, n) + scaled_power(size, unit, n) * pooled
    responds = ~(divisor <= 0)  # 0 where there is no response, whose power may be infinite; what is NaN is to be seen
    share = 1 / jnp.where(responds, divisor, jnp.inf)
    return jnp.where(responds, unit, 0) if each else 1 / jnp.where(responds, base, jnp.inf), share


def _by_largest(x: Values, sigma: Statistic, valid: Mask = None, *, powers: Powers) -> list[Statistic]:
    e, s = by_largest(x, sigma, valid, powers=powers)
    broken = jnp.where(jnp.isfinite(s), 0, 1).astype(s.dtype)
    # the root of a negative count is NaN, and that of none is 0; a constant NaN would alarm jax_debug_nans
    pooled = s / _number(powers, x, valid) + jnp.sqrt(-broken)
    # the compiler joins constants, and the product of two of them may be out of range: so it is to know of none
    return list(share_at(powers.exponent, e, pooled, jax.lax.optimization_barrier(sigma)))


def _on_cpu(x: Values, sigma: Statistic, valid: Mask = None, *, powers: Powers) -> list[Statistic]:
    if not fits_double(powers, x):
        return _by_largest(x, sigma, valid, powers=powers)
    number, given = _number(powers, x, valid), (x, *(() if valid is None else (valid,)))

    def of_all(x: Values, valid: Mask = None) -> Statistic:
        return _divisor_in_double(powers, x, valid, sigma, number)

    if x.size <= TINY:
        return _pair(of_all(*given), powers.exponent)
    pooled = total(zero_masked(power(powers.magnitude(x), powers.exponent), valid), powers.axes) / number
    divisor = power(sigma, powers.exponent) + pooled
    least = jnp.min(choose(divisor < jnp.inf, divisor, jnp.zeros_like(divisor)), initial=jnp.inf)
    with jax.enable_x64(True):
        found = jax.lax.cond(
            least > LOST * (1 if powers.mean else x.size),
            lambda divisor, *given: divisor,
            lambda divisor, *given: of_all(*given),
            *(jax.lax.convert_element_type(divisor, np.float64), *given),
        )
    return _pair(found, powers.exponent)


def _divisor_in_double(
    powers: Powers, x: Values, valid: Mask, sigma: Statistic, number: Statistic | float
) -> Statistic:
    """Return the divisor by a sum that never leaves the range, and NaN where that is not finite."""
    summed = sum_in_double(powers, x, valid)
    with jax.enable_x64(True):
        wide = functools.partial(jax.lax.convert_element_type, new_dtype=np.float64)
        pooled = summed / (number if isinstance(number, float) else wide(number))
        return power(wide(sigma), powers.exponent) + pooled + (summed - summed)


def _pair(divisor: Statistic, exponent: float) -> list[Statistic]:
    """Return the reciprocal of a power of two near the n-th root of the divisor, and of what is left of the divisor."""
    e, left = root_of(divisor, exponent)
    root = jax.lax.bitcast_convert_type((127 + e) << 23, np.float32)
    left = left.astype(np.float32)
    # quotients, each of them the last step: XLA for CPU takes what is cheaper into the pass over x, once an element
    return [1 / root, 1 / jnp.where(left <= 0, jnp.inf, left)]


def _batch(values: Sequence[Any], dims: Sequence[Any], *, powers: Powers) -> tuple[list[jax.Array], list[int]]:
    return _shared(*every_lane(values, dims), powers=powers.behind_lanes()), [0, 0]


def _shapes(x: Shape, sigma: Shape, *_: Shape, powers: Powers) -> list[Shape]:
    return [jnp.broadcast_shapes(kept_shape(x, axes=powers.axes), sigma)] * 2


def _along(primals: Sequence[Any], tangents: Sequence[Any], *, powers: Powers) -> tuple[Pair, Pair]:
    x, sigma, *valid = primals
    return _jvp(powers, (x, sigma, valid[0] if valid else None), (*tangents[:2], None))


_shared: Deferred[list[jax.Array]] = Deferred(
    "share_of_pool",
    _by_largest,
    _on_cpu,
    several=True,
    shape=_shapes,
    batch=_batch,
    differentiate=by_tangents(_along),
)
