r"""Moments over time: one step after the other, and all steps at once. Both are the same merge.

A step multiplies the weight of the past by :math:`k_t` and merges its own moments into it (Chan, Golub and LeVeque
1979):

.. math:: M_t = (k_t \odot M_{t-1}) \oplus m_t ,

with :math:`k_t` the decay in a step with something valid, 1 in one without, and 0 at a reset. Both operations are
associative, so the steps may be merged in blocks, all blocks at the same time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..units import Dtype, Mantissa, Shape
from .moments import at_least_one, rstd
from .two_term import TwoTerm, cast, choose, minus, plus, product, single

# how fast the past fades: a number, or one that is traced
Rate = float | jax.Array


class Memory(NamedTuple):
    """The moments of the past, in two terms each: neither a mean of -65 mV, nor a count nor a sum stops moving."""

    count: TwoTerm  # type: ignore[assignment]  # hides tuple.count
    mean: TwoTerm
    m2: TwoTerm

    @property
    def var(self) -> jax.Array:
        """The (population) variance; 0 where nothing was counted."""
        return self.m2.value / at_least_one(self.count.value)

    @classmethod
    def empty(cls, shape: Shape, dtype: Dtype) -> "Memory":
        """Return a memory of nothing."""
        return cls(*(single(jnp.zeros(shape, dtype)) for _ in cls._fields))

    @classmethod
    def from_arrays(cls, arrays: dict[str, jax.Array]) -> "Memory":
        """Return the memory that :meth:`arrays` has written down."""
        return cls(*(TwoTerm(arrays[key], arrays[f"{key}_rest"]) for key in cls._fields))

    def arrays(self) -> dict[str, jax.Array]:
        """Return the arrays by name, as a state keeps them."""
        pairs = self._asdict().items()
        return {key: v.value for key, v in pairs} | {f"{key}_rest": v.rest for key, v in pairs}

    def widened(self, dtype: Dtype) -> "Memory":
        """Return the memory in a dtype that holds this one too."""
        return Memory(*(cast(v, jnp.promote_types(v.value.dtype, dtype)) for v in self))


class Steps(NamedTuple):
    """The moments of a step, or of each of several; the mean as a centre without gradient, and what is left.

    A count that is the same in all of several is that of one.
    """

    count: jax.Array  # type: ignore[assignment]
    mean: TwoTerm
    m2: jax.Array


class Span(NamedTuple):
    """The moments of some steps in a row, and by which rate they fade what came before: to exp(-rate) of its weight."""

    rate: jax.Array
    count: jax.Array  # type: ignore[assignment]
    mean: TwoTerm
    m2: jax.Array


class Now(NamedTuple):
    """The memory after a step, or after each of several, and how far the mean of the step itself lies above its."""

    memory: Memory
    above: jax.Array


def forget(memory: Memory, reset: jax.Array | None) -> Memory:
    """Return the memory without the trials that begin anew."""
    if reset is None:
        return memory
    kept: Memory = jax.tree.map(lambda v: jnp.where(reset, 0, v), memory)
    return kept


def advance(memory: Memory, steps: Steps, rate: Rate) -> Now:
    """Return the memory after one step, which fades it to exp(-rate) of its weight."""
    return now_at(after(memory, span_of(steps, rate, None)), steps)


def now_at(memory: Memory, steps: Steps) -> Now:
    """Return the memory after each of some steps, beside their means."""
    return Now(memory, minus(steps.mean, memory.mean))


def span_of(steps: Steps, rate: Rate, reset: jax.Array | None) -> Span:
    """Return the moments of a step, or of each of several, and by which rate they fade what came before."""
    some = steps.count > 0
    fading = jnp.where(some, jnp.asarray(rate, steps.m2.dtype), 0)
    fading = fading if reset is None else jnp.where(reset, jnp.inf, fading)
    mean = TwoTerm(jnp.where(some, steps.mean.value, 0), jnp.where(some, steps.mean.rest, 0))
    return Span(fading, steps.count, mean, steps.m2)


def settle(old: Memory, new: Memory, touched: jax.Array) -> Memory:
    """Return the new memory in the dtype of the old; where no step touched it the old one, bit for bit."""
    settled = Memory(*(cast(v, old.m2.value.dtype) for v in new))
    last: Memory = jax.tree.map(lambda n, o: jnp.where(touched, n, o), settled, old)
    return last


def standardize_by_memory(deviation: jax.Array, now: Now, epsilon: Mantissa) -> jax.Array:
    """Return z by the moments of the memory, from each element's deviation from the mean of its own step."""
    nothing = now.memory.count.value == 0
    shift = jnp.where(nothing, 0, now.above)
    scale = jnp.where(nothing, 0, rstd(now.memory.var, epsilon))
    return (deviation + shift) * scale


def after(memory: Memory, span: Span) -> Memory:
    """Return the memory after a span, in two terms, since as many of them may follow each other as there are steps.

    The weight is one of 0, 1/2 and 1, whose products are exact, and a remainder: so a weight of 0.9999 has all digits.
    """
    weight = jnp.exp(-span.rate)
    upper = jnp.round(2 * weight) / 2
    lower = jnp.where(upper == 1, jnp.expm1(-span.rate), weight - upper)
    gone = forgotten(memory, span.rate)
    mean, between = _between(memory.count.value * weight, choose(gone, span.mean, memory.mean), span)

    def fade(earlier: TwoTerm, added: jax.Array) -> TwoTerm:
        earlier = TwoTerm(jnp.where(gone, 0, earlier.value), jnp.where(gone, 0, earlier.rest))
        now = TwoTerm(product(lower, earlier.value) + added, product(lower, earlier.rest))
        return plus(TwoTerm(upper * earlier.value, upper * earlier.rest), now)

    return Memory(fade(memory.count, span.count), mean, fade(memory.m2, span.m2 + between))


def forgotten(memory: Memory, rate: jax.Array) -> jax.Array:
    """Tell where nothing is left of a memory at such a rate: it is left out, not multiplied, as it may be NaN.

    A weight that is too small for a float does not forget: a NaN is a NaN however long ago it came.
    """
    return jnp.isinf(rate) | (memory.count.value == 0)


def _between(left: jax.Array, earlier: TwoTerm, span: Span) -> tuple[TwoTerm, jax.Array]:
    """Return the mean of what is left of the past and a span, and the sum of squares between the two.

    As in :func:`braindnorm._numerics.moments.merge`, but the mean goes from that of the larger part by the smaller's
    share: so it is off by no more than a rounding of the standard deviation of both.
    """
    both = left + span.count
    share = jnp.minimum(left, span.count) / jnp.where(both > 0, both, 1)
    step = minus(span.mean, earlier)
    later = span.count > left
    mean = plus(choose(later, span.mean, earlier), single(product(step, jnp.where(later, -share, share))))
    return mean, product(step * step, share * jnp.maximum(left, span.count))
