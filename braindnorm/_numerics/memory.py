r"""Moments over time: one step after the other, and all steps at once. Both are the same merge.

A step multiplies the weight of the past by :math:`k_t` and merges its own moments into it (Chan, Golub and LeVeque
1979):

.. math:: M_t = (k_t \odot M_{t-1}) \oplus m_t ,

with :math:`k_t` the decay in a step with something valid, 1 in one without, and 0 at a reset. Both operations are
associative, so ``jax.lax.associative_scan`` gives all :math:`M_t` at once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .moments import Moments, merge, rstd


class Memory(NamedTuple):
    """The moments of the past.

    `mean` is kept relative to `pivot`, the mean of the first step, which carries no gradient (any pivot is
    algebraically exact): a mean of -65 mV that is updated a thousand times would lose a spread of 0.01 mV to rounding.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    pivot: jax.Array
    mean: jax.Array
    m2: jax.Array

    @property
    def var(self) -> jax.Array:
        """The (population) variance; 0 where nothing was counted."""
        return Moments(self.count, self.mean, self.m2).var


class _Span(NamedTuple):
    """The moments of some steps in a row, and the weight that they leave to what came before them."""

    keep: jax.Array
    count: jax.Array  # type: ignore[assignment]
    mean: jax.Array
    m2: jax.Array


def forget(memory: Memory, reset: jax.Array | None) -> Memory:
    """Return the memory without the trials that begin anew."""
    return memory if reset is None else Memory(*(jnp.where(reset, 0, v) for v in memory))


def pivot_of(memory: Memory, mean: jax.Array) -> jax.Array:
    """Return the pivot of the memory, and the mean of this first step where there is none yet."""
    mean = jax.lax.stop_gradient(mean)
    return jnp.where(memory.count > 0, memory.pivot, jnp.where(jnp.isfinite(mean), mean, 0))


def first(mean: jax.Array, count: jax.Array) -> jax.Array:
    """Return the mean of the first step, along the leading axis, in which anything is valid."""
    step = jnp.argmax(count > 0, axis=0, keepdims=True)
    return jnp.take_along_axis(mean, step, axis=0)[0]


def advance(memory: Memory, found: Moments, pivot: jax.Array, decay: Any) -> Memory:
    """Return the memory after one step, whose mean is relative to the pivot.

    Where nothing is valid it is the memory as it was, bit for bit.
    """
    past = _Span(jnp.ones_like(memory.count), memory.count, memory.mean, memory.m2)
    after = _then(past, _span(found, decay, None))
    new = Memory(after.count, pivot, after.mean, after.m2)
    return Memory(*(jnp.where(found.count > 0, n, old) for n, old in zip(new, memory, strict=True)))


def replay(memory: Memory, found: Moments, pivot: jax.Array, decay: Any, reset: jax.Array | None) -> Memory:
    """Return the memory after each of the steps along the leading axis, as :func:`advance` would leave it."""
    past = _Span(jnp.ones_like(memory.count), memory.count, memory.mean, memory.m2)
    steps = _span(found, decay, reset)
    chain = _Span(*(jnp.concatenate([a[None], b]) for a, b in zip(past, steps, strict=True)))
    after = jax.lax.associative_scan(_then, chain)
    return Memory(after.count[1:], jnp.broadcast_to(pivot, found.mean.shape), after.mean[1:], after.m2[1:])


def standardized(deviation: jax.Array, found: Moments, memory: Memory, epsilon: Any) -> jax.Array:
    """Return z by the moments of the memory, from each element's deviation from the mean of its own step."""
    z = (deviation + (found.mean - memory.mean)) * rstd(memory.var, epsilon)
    return jnp.where(memory.count > 0, z, 0)


def _span(found: Moments, decay: Any, reset: jax.Array | None) -> _Span:
    some = found.count > 0
    keep = jnp.where(some, jnp.asarray(decay, found.mean.dtype), 1)
    keep = keep if reset is None else jnp.where(reset, 0, keep)
    return _Span(keep, found.count, jnp.where(some, found.mean, 0), found.m2)


def _then(a: _Span, b: _Span) -> _Span:
    """Return the span of `a` and then `b`. What is forgotten is left out, not multiplied: it may be NaN."""
    counts = a.count * b.keep
    known = counts > 0
    past = Moments(jnp.where(known, counts, 0), jnp.where(known, a.mean, b.mean), jnp.where(known, a.m2 * b.keep, 0))
    return _Span(a.keep * b.keep, *merge(past, Moments(b.count, b.mean, b.m2)))
