r"""Sums of powers at any scale: :math:`2^{en} s`, a binary exponent e, which carries no gradient, and a share s.

Where double precision holds the powers, a program for a CPU adds few numbers in it, and more of them only if one of the
sums has left the range of single precision. Elsewhere it adds them by a scale that is known beforehand, beside which
they mostly stay in range, and by the largest number of each sum only if one of the sums has left it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Shape
from .barriers import fence
from .counts import Counts
from .deferred import TINY, Deferred, by_tangents, is_constant, lanes_first
from .moments import anywhere, choose, zero_masked
from .powers import exponent_of, limits_of, power, two_to
from .shapes import Mask, Statistic, Values
from .sums import Axes, kept_shape, plain_sum, total

# the largest exponent whose powers of single-precision numbers, and sums of them, are in the range of double precision
MOST = 7
# what single precision may lose of each power, as a part of what the sum is seen beside, and keep its digits
LOST = 2.0**-100
Pair = tuple[Statistic, Statistic]
# the numbers, the scale, the mask
Primals = tuple[Values, Statistic, Mask]


class Powers(NamedTuple):
    """Which powers are added: over which axes, the exponent, whether what is negative counts as 0 or by magnitude.

    A pool is their sum or, with `mean`, their mean; with `constant` it is one to derivatives. `counts` are those of the
    valid elements, where they are known before.
    """

    axes: Axes
    exponent: float
    rectify: bool
    mean: bool = False
    constant: bool = False
    counts: Counts | None = None

    def size(self, x: Values, valid: Mask) -> Values:
        """Return what is raised to the power."""
        return zero_masked(self.magnitude(x), valid)

    def behind_lanes(self) -> "Powers":
        """Return the same of an array with one more leading axis, as ``vmap`` gives it."""
        return self._replace(axes=tuple(axis + 1 for axis in self.axes))

    def magnitude(self, x: Values) -> Values:
        """Return the same without a mask."""
        return rectified(x) if self.rectify else jnp.abs(x)


def rectified(x: Values) -> Values:
    """Return `x`, and 0 where it is negative, with a slope of 0 at 0: that of a maximum is a half.

    XLA for CPU loses what is NaN in a maximum that it adds up.
    """
    return choose(x <= 0, jnp.zeros_like(x), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_powers(powers: Powers, x: Values, scale: Statistic, valid: Mask) -> Pair:
    r"""Return e and s with :math:`2^{en} s = \sum a^n`, a sum of magnitudes over the axes, which are kept.

    Parameters
    ----------
    powers : Powers
        The axes, n, and how a number has a magnitude.
    x : Array
        The numbers. A valid one that is not finite makes s not finite.
    scale : Array
        One number, with as many axes. If it is above 0, only what is seen beside its n-th power has to be right. NaN
        has all sums taken by their largest number, which leaves each s near 1.
    valid : Array or None
        The mask. It comes here with `x` as it is, since what a branch of a program is given is written to memory.
    """
    e, s = _scaled(x, scale, *(() if valid is None else (valid,)), powers=powers)
    return e, s


@sum_of_powers.defjvp
def _jvp(powers: Powers, primals: Primals, tangents: Primals) -> tuple[Pair, Pair]:
    x, scale, valid = primals
    e, s = sum_of_powers(powers, x, scale, valid)
    size, dsize = jax.jvp(lambda x: powers.size(x, valid), (x,), (tangents[0],))
    unit = fence(two_to(-e), size=x.size)
    # in this order, or what is in range in the end would leave it on the way
    slope = powers.exponent * power(size * unit, powers.exponent - 1)
    return (e, s), (jnp.zeros_like(e), total(slope * (dsize * unit), powers.axes))


def by_largest(x: Values, scale: Statistic, valid: Mask = None, *, powers: Powers) -> list[Statistic]:
    """Return the pair by the largest number of each sum, which no power of what is below it can lose."""
    size = powers.size(x, valid)
    largest = jnp.max(jnp.where(jnp.isfinite(size), size, 0), powers.axes, keepdims=True, initial=0)
    e = exponent_of(largest)
    return [e, total(power(size * fence(two_to(-e), size=x.size), powers.exponent), powers.axes)]


def fits_double(powers: Powers, x: Values) -> bool:
    """Tell whether double precision holds the powers and their sums, and may be used where this is traced."""
    if jax.sharding.get_abstract_mesh().manual_axes or not is_constant(x.shape):
        return False  # among what is single precision
    return powers.exponent == int(powers.exponent) <= MOST and x.dtype == np.float32


def sum_in_double(powers: Powers, x: Values, valid: Mask) -> Statistic:
    """Return the sum itself, in double precision."""
    size = powers.size(x, valid)
    with jax.enable_x64(True):
        return plain_sum(power(jax.lax.convert_element_type(size, np.float64), powers.exponent), axes=powers.axes)


def root_of(v: Statistic, exponent: float) -> tuple[jax.Array, Statistic]:
    """Return the whole binary exponent near that of the n-th root of a double, and v over two to the power of e n."""
    n = int(exponent)
    with jax.enable_x64(True):
        e = (jax.lax.bitcast_convert_type(v, np.int64) >> 52) - 1023
        e = jnp.clip((e * (2**16 // n)) >> 16, -124, 126)  # near e / n
        return e.astype(np.int32), v * jax.lax.bitcast_convert_type((1023 - n * e) << 52, np.float64)


def _on_cpu(x: Values, scale: Statistic, valid: Mask = None, *, powers: Powers) -> list[Statistic]:
    if not fits_double(powers, x):
        return _by_scale(x, scale, valid, powers=powers)
    given = (x, *(() if valid is None else (valid,)))
    if x.size <= TINY:
        summed = sum_in_double(powers, x, valid)
    else:
        s = total(zero_masked(power(powers.magnitude(x), powers.exponent), valid), powers.axes)
        seen = jnp.maximum(s, power(jnp.where(scale > 0, scale, 0), powers.exponent))
        least = jnp.min(choose(s < jnp.inf, seen, jnp.zeros_like(seen)), initial=jnp.inf)
        with jax.enable_x64(True):
            summed = jax.lax.cond(
                least > LOST * x.size,
                lambda s, *given: s,
                lambda s, x, valid=None: sum_in_double(powers, x, valid),
                *(jax.lax.convert_element_type(s, np.float64), *given),
            )
    e, left = (v.astype(x.dtype) for v in root_of(summed, powers.exponent))
    # of a sum that is lost it is that of what it is lost beside, or the derivative would leave the range on its way
    e = choose((left == 0) & (scale > 0), exponent_of(scale) + jnp.zeros_like(e), e)
    # quotients as the last step: XLA for CPU takes what is cheaper into the pass over x, once for each element
    one = jax.lax.optimization_barrier(jnp.ones((), x.dtype))
    return [e / one, left / one]


def _by_scale(x: Values, scale: Statistic, valid: Mask = None, *, powers: Powers) -> list[Statistic]:
    if is_constant(x.shape) and x.size <= TINY:
        return by_largest(x, scale, valid, powers=powers)
    e = jnp.where(scale > 0, exponent_of(scale), 0)
    s = total(power(powers.size(x, valid) * fence(two_to(-e)), powers.exponent), powers.axes)
    most = 2.0 ** (limits_of(x.dtype)[1] // 2)
    # what is lost beside the scale is not seen; without one a sum of 0 may be of what was lost
    outside = ~((s <= most) & (s >= jnp.where(scale > 0, 0, 1 / most)))
    fits = ~anywhere(outside, x.dtype)
    e = choose(s == s, e, e)  # of the shape of s, and varying along the axes that s varies along
    taken: list[Statistic] = jax.lax.cond(
        fits,
        lambda e, s, *_: [e, s],
        lambda e, s, *given: by_largest(*given, powers=powers),
        *(e, s, x, scale, *(() if valid is None else (valid,))),
    )
    return taken


def every_lane(values: Sequence[Any], dims: Sequence[Any]) -> list[jax.Array]:
    """Return the operands with their lanes first, and the numbers themselves in each of them."""
    x, *others = lanes_first(values, dims)
    lanes = max(len(v) for v in (x, *others))
    return [jnp.broadcast_to(x, (lanes, *x.shape[1:])), *others]


def _batch(values: Sequence[Any], dims: Sequence[Any], *, powers: Powers) -> tuple[list[jax.Array], list[int]]:
    return _scaled(*every_lane(values, dims), powers=powers.behind_lanes()), [0, 0]


def _shapes(x: Shape, *_: Shape, powers: Powers) -> list[Shape]:
    return [kept_shape(x, axes=powers.axes)] * 2


def _along(primals: Sequence[Any], tangents: Sequence[Any], *, powers: Powers) -> tuple[Pair, Pair]:
    x, scale, *valid = primals
    return _jvp(powers, (x, scale, valid[0] if valid else None), (*tangents[:2], None))


_scaled: Deferred[list[jax.Array]] = Deferred(
    "sum_of_powers",
    by_largest,
    _on_cpu,
    several=True,
    shape=_shapes,
    batch=_batch,
    differentiate=by_tangents(_along),
)
