r"""Sums of powers at any scale: :math:`2^{en} s`, a binary exponent e, which carries no gradient, and a share s.

Beside a scale that is known beforehand the powers mostly stay in range. So a program for a CPU first adds them up by
that scale, and by the largest number of each sum only if one of the sums has left the range.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..units import Shape
from .barriers import fence
from .deferred import Deferred
from .pilot import no_derivative
from .powers import exponent_of, limits_of, power, two_to
from .shapes import Statistic, Values
from .sums import Axes, kept_shape, total

Pair = tuple[Statistic, Statistic]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def sum_of_powers(axes: Axes, exponent: float, size: Values, scale: Statistic) -> Pair:
    r"""Return e and s with :math:`2^{en} s = \sum a^n`, a sum of magnitudes over the axes, which are kept.

    Parameters
    ----------
    axes : tuple of int
        The axes.
    exponent : float
        n.
    size : Array
        The magnitudes a. One that is not finite makes s not finite.
    scale : Array
        One number, with as many axes. If it is above 0, only what is seen beside its n-th power has to be right. NaN
        has all sums taken by their largest number, which leaves each s near 1.
    """
    e, s = _scaled(size, scale, axes=axes, exponent=exponent)
    return e, s


@sum_of_powers.defjvp
def _jvp(axes: Axes, exponent: float, primals: Pair, tangents: Pair) -> tuple[Pair, Pair]:
    size, scale = primals
    e, s = sum_of_powers(axes, exponent, size, scale)
    unit = fence(two_to(-e), size=size.size)
    # in this order, or what is in range in the end would leave it on the way
    slope = exponent * power(size * unit, exponent - 1)
    return (e, s), (jnp.zeros_like(e), total(slope * (tangents[0] * unit), axes))


def _by_largest(size: Values, scale: Statistic, *, axes: Axes, exponent: float) -> list[Statistic]:
    largest = jnp.max(jnp.where(jnp.isfinite(size), size, 0), axes, keepdims=True, initial=0)
    e = exponent_of(largest)
    return [e, total(power(size * fence(two_to(-e), size=size.size), exponent), axes)]


def _by_scale(size: Values, scale: Statistic, *, axes: Axes, exponent: float) -> list[Statistic]:
    e = jnp.where(scale > 0, exponent_of(scale), 0)
    s = total(power(size * fence(two_to(-e)), exponent), axes)
    most = 2.0 ** (limits_of(size.dtype)[1] // 2)
    # what is lost beside the scale is not seen; without one a sum of 0 may be of what was lost
    fits = jnp.all((s <= most) & (s >= jnp.where(scale > 0, 0, 1 / most)))
    taken: list[Statistic] = jax.lax.cond(
        fits,
        lambda size, scale, e, s: [e, s],
        lambda size, scale, e, s: _by_largest(size, scale, axes=axes, exponent=exponent),
        *(size, scale, jnp.where(s == s, e, e), s),
    )
    return taken


def _batch(
    values: Sequence[Any], dims: Sequence[Any], *, axes: Axes, exponent: float
) -> tuple[list[jax.Array], list[int]]:
    size, scale = (v[None] if dim is None else jnp.moveaxis(v, dim, 0) for v, dim in zip(values, dims, strict=True))
    return _scaled(size, scale, axes=tuple(axis + 1 for axis in axes), exponent=exponent), [0, 0]


def _shapes(size: Shape, scale: Shape, *, axes: Axes, exponent: float) -> list[Shape]:
    return [kept_shape(size, axes=axes)] * 2


_scaled: Deferred[list[jax.Array]] = Deferred(
    "sum_of_powers", _by_largest, _by_scale, several=True, shape=_shapes, batch=_batch, differentiate=no_derivative
)
