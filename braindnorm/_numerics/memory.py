r"""Moments over time: one step after the other, and all steps at once. Both are the same merge.

A step multiplies the weight of the past by :math:`k_t` and merges its own moments into it (Chan, Golub and LeVeque
1979):

.. math:: M_t = (k_t \odot M_{t-1}) \oplus m_t ,

with :math:`k_t` the decay in a step with something valid, 1 in one without, and 0 at a reset. Both operations are
associative, so the steps may be merged in blocks, all blocks at the same time.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..units import Dtype, Mantissa, Shape
from .moments import at_least_one, rstd
from .two_term import TwoTerm, cast, choose, minus, plus, product, single

# how fast the past fades: a number, or one that is traced
Rate = float | jax.Array
# up to as many, one step after the other is as fast as blocks of them
FEW_STEPS = 32


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
    """The moments of a step, or of each of several; the mean as a centre without gradient, and what is left."""

    count: jax.Array  # type: ignore[assignment]
    mean: TwoTerm
    m2: jax.Array


class _Span(NamedTuple):
    """The moments of some steps in a row, and by which rate they fade what came before: to exp(-rate) of its weight."""

    rate: jax.Array
    count: jax.Array  # type: ignore[assignment]
    mean: TwoTerm
    m2: jax.Array


def forget(memory: Memory, reset: jax.Array | None) -> Memory:
    """Return the memory without the trials that begin anew."""
    if reset is None:
        return memory
    kept: Memory = jax.tree.map(lambda v: jnp.where(reset, 0, v), memory)
    return kept


def advance(memory: Memory, steps: Steps, rate: Rate) -> Memory:
    """Return the memory after one step, which fades it to exp(-rate) of its weight."""
    return _after(memory, _span(steps, rate, None))


def replay(memory: Memory, steps: Steps, rate: Rate, reset: jax.Array | None) -> Memory:
    """Return the memory after each of the steps along the leading axis, as :func:`advance` would leave it.

    The steps are cut into about as many blocks as a block has steps. All blocks run through theirs at the same time,
    each from an empty memory; then one block after the other is merged into the memory; and then each step is merged
    into the memory before its block. So a program of any length is two loops and a merge, quick to compile; a few steps
    are one loop.
    """
    span = _span(steps, rate, reset)
    num_steps = len(span.count)
    if num_steps <= FEW_STEPS:
        return jax.lax.scan(_onward, memory, span)[1]
    length = math.isqrt(num_steps - 1) + 1
    blocks = _blocks(span, length)
    empty = Memory.empty(blocks.count.shape[1:], blocks.m2.dtype)
    _, within = jax.lax.scan(
        partial(_then, jnp.asarray(rate, span.m2.dtype)), (jnp.zeros_like(blocks.rate[0]), empty), blocks
    )
    _, before = jax.lax.scan(_with_block, memory, jax.tree.map(lambda v: v[-1], within))
    after = _after(before, within)
    flat: Memory = jax.tree.map(lambda v: v.swapaxes(0, 1).reshape(-1, *v.shape[2:])[:num_steps], after)
    return flat


def settle(old: Memory, new: Memory, touched: jax.Array) -> Memory:
    """Return the new memory in the dtype of the old; where no step touched it the old one, bit for bit."""
    settled = Memory(*(cast(v, old.m2.value.dtype) for v in new))
    last: Memory = jax.tree.map(lambda n, o: jnp.where(touched, n, o), settled, old)
    return last


def standardize_by_memory(deviation: jax.Array, steps: Steps, memory: Memory, epsilon: Mantissa) -> jax.Array:
    """Return z by the moments of the memory, from each element's deviation from the mean of its own step."""
    z = (deviation + minus(steps.mean, memory.mean)) * rstd(memory.var, epsilon)
    return jnp.where(memory.count.value == 0, 0, z)


def _span(steps: Steps, rate: Rate, reset: jax.Array | None) -> _Span:
    some = steps.count > 0
    fading = jnp.where(some, jnp.asarray(rate, steps.m2.dtype), 0)
    fading = fading if reset is None else jnp.where(reset, jnp.inf, fading)
    mean = TwoTerm(jnp.where(some, steps.mean.value, 0), jnp.where(some, steps.mean.rest, 0))
    return _Span(fading, steps.count, mean, steps.m2)


def _blocks(span: _Span, length: int) -> _Span:
    """Return the steps as (step of a block, block, ...). What fills the last block holds nothing and fades nothing."""
    missing = -len(span.count) % length

    def cut(v: jax.Array) -> jax.Array:
        filled = jnp.concatenate([v, jnp.zeros((missing, *v.shape[1:]), v.dtype)]) if missing else v
        return filled.reshape(-1, length, *v.shape[1:]).swapaxes(0, 1)

    cut_span: _Span = jax.tree.map(cut, span)
    return cut_span


def _then(rate: jax.Array, earlier: tuple[jax.Array, Memory], step: _Span) -> tuple[tuple[jax.Array, Memory], _Span]:
    """Return what a block holds after one more of its steps: to go on from, and as a span.

    The steps that fade are counted, and their rates not added up one by one: the same error in each step would grow.
    """
    fading = earlier[0] + jnp.where(jnp.isinf(step.rate), jnp.inf, jnp.where(step.rate == 0, 0.0, 1.0))
    memory = _after(earlier[1], step)
    forgets = jnp.isinf(fading)
    faded = jnp.where(forgets, 0, fading) * jnp.where(jnp.isinf(rate), 0, rate)
    return (fading, memory), _Span(jnp.where(forgets, jnp.inf, faded), memory.count.value, memory.mean, memory.m2.value)


def _onward(memory: Memory, step: _Span) -> tuple[Memory, Memory]:
    """Return the memory after a step: to go on from, and as a result."""
    after = _after(memory, step)
    return after, after


def _with_block(memory: Memory, block: _Span) -> tuple[Memory, Memory]:
    """Return the memory after a block, and the one before it."""
    return _after(memory, block), memory


def _after(memory: Memory, span: _Span) -> Memory:
    """Return the memory after a span, in two terms, since as many of them may follow each other as there are steps.

    The weight is one of 0, 1/2 and 1, whose products are exact, and a remainder: so a weight of 0.9999 has all digits.
    """
    weight = jnp.exp(-span.rate)
    upper = jnp.round(2 * weight) / 2
    lower = jnp.where(upper == 1, jnp.expm1(-span.rate), weight - upper)
    left = memory.count.value * weight
    mean, between = _between(left, memory.mean, span)

    def fade(earlier: TwoTerm, added: jax.Array) -> TwoTerm:
        earlier = TwoTerm(jnp.where(left == 0, 0, earlier.value), jnp.where(left == 0, 0, earlier.rest))
        now = TwoTerm(product(lower, earlier.value) + added, product(lower, earlier.rest))
        return plus(TwoTerm(upper * earlier.value, upper * earlier.rest), now)

    return Memory(fade(memory.count, span.count), mean, fade(memory.m2, span.m2 + between))


def _between(left: jax.Array, earlier: TwoTerm, span: _Span) -> tuple[TwoTerm, jax.Array]:
    """Return the mean of what is left of the past and a span, and the sum of squares between the two.

    As in :func:`braindnorm._numerics.moments.merge`, but the mean goes from that of the larger part by the smaller's
    share: so it is off by no more than a rounding of the standard deviation of both. What is forgotten is left out, not
    multiplied: it may be NaN.
    """
    earlier = choose(left == 0, span.mean, earlier)
    both = left + span.count
    share = jnp.minimum(left, span.count) / jnp.where(both > 0, both, 1)
    step = minus(span.mean, earlier)
    later = span.count > left
    mean = plus(choose(later, span.mean, earlier), single(product(step, jnp.where(later, -share, share))))
    return mean, product(step * step, share * jnp.maximum(left, span.count))
