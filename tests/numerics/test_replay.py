"""The memory after each step of a sequence without masks, beside the same step by step in float64 numpy."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics.memory import Memory, Steps
from braindnorm._numerics.replay import replay
from braindnorm._numerics.two_term import TwoTerm, single
from tests.support.norms import float64

ROWS, CHANNELS = 3, 5


def drawn(num_steps: int) -> np.ndarray:
    """Draw rows at rest, one that comes from far away, and one with a sample far away."""
    x = np.random.default_rng(num_steps).normal(-65, 0.01, (num_steps, ROWS, CHANNELS))
    x[0, 1] = 1e6
    x[num_steps // 2, 2, 0] = 1e6
    return x.astype(np.float32)


def remembered() -> tuple[Memory, np.ndarray]:
    """Return the memory of rows of different counts, of which one is empty; and as (count, mean, m2) in float64."""
    numbers = np.array([[0, 7, 2**25], [0, -64.9, -65.1], [0, 0.02, 40]])[..., None]
    value = numbers.astype(np.float32)
    rest = (numbers - value).astype(np.float32)
    return Memory(*(TwoTerm(jnp.asarray(v), jnp.asarray(r)) for v, r in zip(value, rest, strict=True))), numbers


def one_by_one(x: np.ndarray, decay: float, start: np.ndarray) -> np.ndarray:
    """Return (step, count or mean or m2, row, 1)."""
    count, mean, m2 = start
    found = []
    for v in x.astype(float):
        own = v.mean(-1, keepdims=True)
        left, gap = decay * count, own - mean
        count = left + CHANNELS
        mean = mean + gap * CHANNELS / count
        m2 = decay * m2 + ((v - own) ** 2).sum(-1, keepdims=True) + gap**2 * left * CHANNELS / count
        found.append((count, mean, m2))
    return np.array(found)


def moments(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the mean of each step as a float and what is left of it, and the sum of squares."""
    wide = x.astype(float)
    mean = wide.mean(-1, keepdims=True)
    value = mean.astype(np.float32)
    return value, (mean - value).astype(np.float32), ((wide - mean) ** 2).sum(-1, keepdims=True).astype(np.float32)


def steps_of(value: Any, rest: Any, m2: Any) -> Steps:
    return Steps(jnp.full((1, ROWS, 1), CHANNELS, m2.dtype), TwoTerm(value, rest), m2)


def in_full(v: TwoTerm) -> np.ndarray:
    return np.asarray(v.value, float) + np.asarray(v.rest, float)


@pytest.mark.parametrize(
    ("num_steps", "decay", "traced"),
    [(1, 0.9, False), (50, 0.0, False), (150, 0.9, True), (150, 1.0, True), (64, 1.0, False), (4500, 0.9999, False)],
)
def test_each_step_and_the_last(num_steps: int, decay: float, traced: bool) -> None:
    """One step, one block, blocks of which the last is not full, and blocks of blocks."""
    x, (memory, start) = drawn(num_steps), remembered()
    rate = -math.log(decay) if decay else math.inf
    if traced:
        now, last = jax.jit(lambda v, r: replay(memory, steps_of(*v), r, None))(moments(x), jnp.float32(rate))
    else:
        now, last = jax.jit(lambda v: replay(memory, steps_of(*v), rate, None))(moments(x))
    count, mean, m2 = np.moveaxis(one_by_one(x, decay, start), 1, 0)
    own = x.astype(float).mean(-1, keepdims=True)
    std = np.sqrt(m2 / count) + 1e-3  # with an epsilon of 1e-6
    near = 2e-6 * np.maximum(std, np.abs(own - mean))
    assert np.allclose(now.memory.count.value, count, rtol=1e-6)
    assert (np.abs(in_full(now.memory.mean) - mean) < near).all()
    assert np.allclose(now.memory.var, m2 / count, rtol=5e-6, atol=1e-9)
    assert (np.abs(now.above - (own - mean)) < near).all()
    assert np.allclose(in_full(last.count), count[-1], rtol=1e-11 if decay == 1 else 1e-6, atol=0)
    assert (np.abs(in_full(last.mean) - mean[-1]) < 2e-6 * std[-1]).all()
    assert np.allclose(in_full(last.m2), m2[-1], rtol=5e-6)


def test_what_is_not_finite_stays_in_its_row_and_in_the_future() -> None:
    """With a number that overflows in the merge alone, too. What came before is the same, bit for bit."""
    x, (memory, _) = drawn(150), remembered()
    run = jax.jit(lambda v: replay(memory, steps_of(*v), 0.1, None))
    clean = run(moments(x))[0]
    for bad in (np.nan, np.inf, 3e38):
        value, rest, m2 = (v.copy() for v in moments(x))
        value[40, 1] = bad
        m2[40, 1] = bad if bad != 3e38 else 0
        now, last = run((value, rest, m2))
        for v, expected in ((now.above, clean.above), (now.memory.var, clean.memory.var)):
            assert np.array_equal(v[:, ::2], expected[:, ::2])
            assert np.array_equal(v[:40], expected[:40])
        assert np.isnan(now.memory.var[41:, 1]).all() and np.isnan(last.m2.value[1]).all()


def test_derivatives_of_both_orders_through_blocks() -> None:
    """Beside the weighted mean and variance over all steps before, written down at once."""
    decay, num_steps = 0.95, 100
    with float64():
        x = jnp.asarray(np.random.default_rng(0).normal(size=(num_steps, ROWS, CHANNELS)))
        empty = Memory(*(single(jnp.zeros((ROWS, 1))) for _ in range(3)))
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(num_steps, ROWS, 1)))
        weights = np.tril(decay ** (np.arange(num_steps)[:, None] - np.arange(num_steps)))[..., None, None]

        def ours(x: Any) -> Any:
            mean = x.mean(-1, keepdims=True)
            m2 = ((x - mean) ** 2).sum(-1, keepdims=True)
            now = replay(empty, steps_of(mean, 0 * mean, m2), -math.log(decay), None)[0]
            return jnp.sum(cotangent * now.above / jnp.sqrt(now.memory.var))

        def naive(x: Any) -> Any:
            n = CHANNELS * weights.sum(1)
            mean = (weights * x).sum((1, -1))[..., None] / n
            var = (weights * (x - mean[:, None]) ** 2).sum((1, -1))[..., None] / n
            return jnp.sum(cotangent * (x.mean(-1, keepdims=True) - mean) / jnp.sqrt(var))

        def derivatives(f: Any) -> Any:
            return jax.jit(lambda x: (f(x), *jax.jvp(jax.grad(f), (x,), (x**2,))))(x)

        for found, expected in zip(derivatives(ours), derivatives(naive), strict=True):
            assert np.allclose(found, expected, rtol=1e-9, atol=1e-9)
