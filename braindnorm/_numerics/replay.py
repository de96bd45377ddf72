"""The memory after each step of a sequence: in loops, or, if all steps are of equally many elements, in products."""

import math
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from .memory import Memory, Now, Rate, Span, Steps, after, forgotten, now_at, span_of
from .prefixes import Prefixes, prefixes
from .two_term import minus, plus, single

_Tree = TypeVar("_Tree")
# up to as many, one step after the other is as fast as blocks of them
FEW_STEPS = 32
# up to as many, steps of equal count are products of matrices with a row and a column for each
FEW_EVEN_STEPS = 64


def replay(memory: Memory, steps: Steps, rate: Rate, reset: jax.Array | None) -> tuple[Now, Memory]:
    """Return the memory after each of the steps along the leading axis, and after the last one in all its digits.

    They are as :func:`advance` would leave them. A count that is the same in all steps is that of one step. A `rate`
    that is a number makes the smaller program.
    """
    if len(steps.count) == 1 and reset is None:
        return _in_products(memory, steps, rate)
    steps = steps._replace(count=jnp.broadcast_to(steps.count, steps.m2.shape))
    now = _in_loops(memory, span_of(steps, rate, reset), rate)
    return now_at(now, steps), jax.tree.map(lambda v: v[-1], now)


def _in_products(memory: Memory, steps: Steps, rate: Rate) -> tuple[Now, Memory]:
    """Return the memory after each of some steps of equal count, in one term but for the mean, and after the last."""
    before, within = _parts(memory, steps, rate)
    num_steps, length = len(steps.m2), within.m2.shape[1]
    last = jax.tree.map(lambda v: v[-1, (num_steps - 1) % length], within.span())
    return _flat(_onto(before, within), num_steps), after(jax.tree.map(lambda v: v[-1, 0], before), last)


def _parts(memory: Memory, steps: Steps, rate: Rate) -> tuple[Memory, Prefixes]:
    """Return the memory before each block of steps, and the moments of the steps in each, as (block, step, ...).

    A few steps are one block. All blocks are summed up at the same time; then the memory goes from block to block, as
    from step to step.
    """
    num_steps = len(steps.m2)
    few = num_steps <= FEW_EVEN_STEPS
    length = num_steps if few else min(math.isqrt(num_steps - 1) + 1, FEW_EVEN_STEPS)
    within = prefixes(Steps(steps.count[None], *_cut(steps[1:], length)), rate)
    before = jax.tree.map(lambda v: v[None, None], memory)
    if not few:
        _, count, *moments = jax.tree.map(lambda v: v[:, -1], within.span())
        earlier, blocks = _parts(memory, Steps(count, *moments), rate * length)
        ended = _flat(after(earlier, blocks.span()), len(within.m2))
        before = jax.tree.map(lambda first, v: jnp.concatenate([first, v[:-1, None]]), before, ended)
    return before, within


def _onto(memory: Memory, within: Prefixes) -> Now:
    """Return the memory after steps that follow it.

    Its mean goes from that of the larger part by the smaller's share.
    """
    weight = jnp.exp(-within.rate)
    left = memory.count.value * weight
    gone = forgotten(memory, within.rate)
    count = left + within.count
    share = jnp.minimum(left, within.count) / jnp.where(count > 0, count, 1)
    above_memory = minus(within.step, memory.mean)
    gap = jnp.where(gone, 0, above_memory - within.above)
    above = jnp.where(left > within.count, above_memory - share * gap, within.above + share * gap)
    between = share * jnp.maximum(left, within.count) * gap * gap
    m2 = within.m2 + jnp.where(gone, 0, memory.m2.value * weight) + between
    return Now(Memory(single(count), plus(within.step, single(-above)), single(m2)), above)


def _in_loops(memory: Memory, span: Span, rate: Rate) -> Memory:
    """Return the memory after each of some spans.

    They are cut into about as many blocks as a block has steps. All blocks run through theirs at the same time,
    each from an empty memory; then one block after the other is merged into the memory; and then each step is merged
    into the memory before its block. So a program of any length is two loops and a merge, quick to compile; a few steps
    are one loop.
    """
    num_steps = len(span.count)
    if num_steps <= FEW_STEPS:
        return jax.lax.scan(_onward, memory, span)[1]
    length = math.isqrt(num_steps - 1) + 1
    blocks = _turned(_cut(span, length))
    empty = Memory.empty(blocks.count.shape[1:], blocks.m2.dtype)
    _, within = jax.lax.scan(
        partial(_then, jnp.asarray(rate, span.m2.dtype)), (jnp.zeros_like(blocks.rate[0]), empty), blocks
    )
    _, before = jax.lax.scan(_with_block, memory, jax.tree.map(lambda v: v[-1], within))
    return _flat(_turned(after(before, within)), num_steps)


def _cut(steps: _Tree, length: int) -> _Tree:
    """Return the steps as (block, step of a block, ...). What fills the last block is 0: it holds and fades nothing."""

    def cut(v: jax.Array) -> jax.Array:
        missing = -len(v) % length
        filled = jnp.concatenate([v, jnp.zeros((missing, *v.shape[1:]), v.dtype)]) if missing else v
        return filled.reshape(-1, length, *v.shape[1:])

    blocks: _Tree = jax.tree.map(cut, steps)
    return blocks


def _flat(blocks: _Tree, num_steps: int) -> _Tree:
    """Return (block, step of a block, ...) as one step after the other."""
    steps: _Tree = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:num_steps], blocks)
    return steps


def _turned(blocks: _Tree) -> _Tree:
    """Exchange the axes of blocks and of the steps of a block."""
    turned: _Tree = jax.tree.map(lambda v: v.swapaxes(0, 1), blocks)
    return turned


def _then(rate: jax.Array, earlier: tuple[jax.Array, Memory], step: Span) -> tuple[tuple[jax.Array, Memory], Span]:
    """Return what a block holds after one more of its steps: to go on from, and as a span.

    The steps that fade are counted, and their rates not added up one by one: the same error in each step would grow.
    """
    fading = earlier[0] + jnp.where(jnp.isinf(step.rate), jnp.inf, jnp.where(step.rate == 0, 0.0, 1.0))
    memory = after(earlier[1], step)
    forgets = jnp.isinf(fading)
    faded = jnp.where(forgets, 0, fading) * jnp.where(jnp.isinf(rate), 0, rate)
    return (fading, memory), Span(jnp.where(forgets, jnp.inf, faded), memory.count.value, memory.mean, memory.m2.value)


def _onward(memory: Memory, step: Span) -> tuple[Memory, Memory]:
    """Return the memory after a step: to go on from, and as a result."""
    now = after(memory, step)
    return now, now


def _with_block(memory: Memory, block: Span) -> tuple[Memory, Memory]:
    """Return the memory after a block, and the one before it."""
    return after(memory, block), memory
