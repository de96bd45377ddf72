r"""Numbers of two terms, value + rest, with twice the digits of a float.

A float that adds up over many steps stops moving once a step's share falls below half of its last digit; the rest keeps
those shares. The error of a sum is found as by Knuth (1969), and carries no gradient: algebraically it is 0.

A compiler may make one instruction of a product and a sum, in one of two copies of a sum and not in the other, which
then do not agree. So what is added here must not be a bare product: :func:`product` puts a rounding in between.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..units import DtypeLike


class TwoTerm(NamedTuple):
    """A number as the float nearest to it, and what is left."""

    value: jax.Array
    rest: jax.Array


def plus(a: TwoTerm, b: TwoTerm) -> TwoTerm:
    """Return the sum."""
    total = a.value + b.value
    gained = total - a.value
    error = (a.value - (total - gained)) + (b.value - gained)
    rest = (a.rest + b.rest) + jax.lax.stop_gradient(error)
    value = total + rest
    return TwoTerm(value, jax.lax.stop_gradient(rest - (value - total)))


def minus(a: TwoTerm, b: TwoTerm) -> jax.Array:
    """Return the difference as one float: two numbers that are close to each other leave all digits."""
    return (a.value - b.value) + (a.rest - b.rest)


def single(x: jax.Array) -> TwoTerm:
    """Return one float as a number of two terms."""
    return TwoTerm(x, jnp.zeros_like(x))


def choose(where: jax.Array, a: TwoTerm, b: TwoTerm) -> TwoTerm:
    """Return `a` where the condition holds, and `b` elsewhere."""
    return TwoTerm(jnp.where(where, a.value, b.value), jnp.where(where, a.rest, b.rest))


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product of two floats, rounded to one digit less than they have: nothing merges it with a sum."""
    exact = a * b
    digits = jnp.finfo(exact.dtype)  # type: ignore[no-untyped-call]
    return jax.lax.reduce_precision(exact, digits.nexp, digits.nmant - 1)


def cast(a: TwoTerm, dtype: DtypeLike) -> TwoTerm:
    """Return the number in floats of another dtype. Two of float32 hold nearly all of one of float64."""
    if a.value.dtype == dtype:
        return a
    wide = jnp.promote_types(a.value.dtype, dtype)
    total = a.value.astype(wide) + a.rest.astype(wide)
    value = total.astype(dtype)
    return TwoTerm(value, (total - value.astype(wide)).astype(dtype))
