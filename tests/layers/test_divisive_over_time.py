"""Gain control over time: a drive divided by the pool of all steps up to now, against the equation in float64."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit

from braindnorm import DivisiveNorm, OverTime, errors
from tests.support.norms import draw, float64

T, B, N = 4, 2, 3
DECAY, SIGMA, GAMMA = 0.7, 1.5, 3.0
X = draw(T, B, N, loc=2.0, scale=2.0).astype(float)
MASK = np.random.default_rng(3).random((T, B, N)) > 0.3
MASK[1, 0] = False
WEIGHTS = np.random.default_rng(4).random((N, N))
G = draw(T, B, N, seed=2).astype(float)


def naive(x: Any, n: float, pool: Any, xp: Any = np) -> Any:
    """Return the responses; the pools of the steps are averaged, by their counts and how long they are past."""
    power = xp.where(MASK, xp.maximum(x, 0) ** n, 0)
    count = MASK.sum(-1, keepdims=True)
    each = power @ WEIGHTS.T if pool is WEIGHTS else power.sum(-1, keepdims=True)
    each = each / np.maximum(count, 1) if isinstance(pool, str) and pool == "mean" else each
    out, total, weight = [], 0 * each[0], np.zeros((B, 1))
    for t in range(T):
        fade = np.where(count[t] > 0, DECAY, 1.0)
        total, weight = fade * total + count[t] * each[t], fade * weight + count[t]
        pooled = total / np.maximum(weight, 1e-300)
        out.append(xp.where(MASK[t], GAMMA * xp.maximum(x[t], 0) ** n / (SIGMA**n + pooled), 0))
    return xp.stack(out)


def made(n: float, pool: Any, **options: Any) -> OverTime:
    over = OverTime(DivisiveNorm(N, exponent=n, sigma=SIGMA, gamma=GAMMA, pool=pool), DECAY, **options)
    over.init_state(B)
    return over


@pytest.mark.parametrize(("n", "pool"), [(2.0, "mean"), (1.5, "sum"), (3.0, WEIGHTS)], ids=["mean", "sum", "matrix"])
def test_both_clocks_in_values_and_gradients(n: float, pool: Any) -> None:
    with float64():
        over = made(n, pool)
        slope = jax.grad(lambda x: jnp.sum(G * naive(x, n, pool, jnp)))(jnp.asarray(X))

        def loss(x: Any) -> Any:
            over.reset_state()
            a = over.update_sequence(x, mask=MASK)
            over.reset_state()
            b = for_loop(lambda x, m: over(x, mask=m), x, jnp.asarray(MASK))
            return jnp.sum(G * a) + 2 * jnp.sum(G * b), (a, b)

        padded = jnp.asarray(np.where(MASK, X, np.nan))
        got, ys = jit(lambda x: brainstate.transform.grad(loss, has_aux=True)(x))(padded)
        for y in ys:
            np.testing.assert_allclose(y, naive(X, n, pool), rtol=0, atol=1e-12)
        np.testing.assert_allclose(got, 3 * slope, rtol=0, atol=1e-11)


def test_frozen_units_and_a_least_count() -> None:
    norm = DivisiveNorm(N, sigma=SIGMA * u.Hz, gamma=GAMMA * u.pA, pool="mean")
    over = OverTime(norm, min_count=2 * N)
    over.init_state(B)
    x = np.abs(X).astype(np.float32)
    step = jit(lambda x: over(x * 1e-3 * u.kHz))
    power = x**2

    def response(drive: Any, pooled: Any) -> Any:
        return GAMMA * drive**2 / (SIGMA**2 + pooled)

    first, second = step(x[0]), step(x[1])
    both = power[:2].mean((0, 2))[:, None]
    np.testing.assert_allclose(first.to_decimal(u.pA), response(x[0], power[0].mean(-1, keepdims=True)), rtol=1e-5)
    np.testing.assert_allclose(second.to_decimal(u.pA), response(x[1], both), rtol=1e-5)
    np.testing.assert_allclose(over.statistics.var.to_decimal(u.Hz**2), both, rtol=1e-5)
    over.frozen = True
    for t in (2, 3):
        np.testing.assert_allclose(step(x[t]).to_decimal(u.pA), response(x[t], both), rtol=1e-5)
    plain = OverTime(DivisiveNorm(N))
    plain.init_state(B)
    with pytest.raises(errors.UnitError, match=r"the memory has one unit.*Build it with DivisiveNorm\(..., unit"):
        plain(x[0] * u.Hz)
    with pytest.raises(errors.OptionError, match="normalize_by='running' is for a BatchNorm; got a DivisiveNorm"):
        OverTime(DivisiveNorm(N), normalize_by="running")
