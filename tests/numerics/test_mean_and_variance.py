"""The mean and the variance alone, and their derivatives of both orders."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics.mean_and_variance import mean_and_variance
from braindnorm._numerics.moments import Reduction
from braindnorm._numerics.plan import plan_for

ROWS, COLUMNS = 40, 3


@pytest.mark.parametrize("masked", [False, True])
def test_mean_and_variance_have_the_derivatives_of_their_formulas(masked: bool) -> None:
    """Reverse mode, forward mode and one over the other, at -65 mV with NaN in the padding."""
    rng = np.random.default_rng(0)
    x = (-65 + 0.5 * rng.standard_normal((ROWS, COLUMNS))).astype(np.float32)
    mask = rng.random((ROWS, COLUMNS)) < 0.7 if masked else np.ones((ROWS, COLUMNS), bool)
    mask[:20, 0] &= not masked  # no valid element in the first sixteenth
    along, a, b = rng.standard_normal((3, ROWS, COLUMNS))
    a, b = a[:1], b[:1]
    valid = jnp.asarray(mask) if masked else None
    plan = plan_for(
        x.shape,
        x.dtype,
        mask.shape if masked else None,
        Reduction((0,)),
        centred=True,
        compensated=False,
        dtype=x.dtype,
    )

    def loss(x: Any) -> Any:
        parts, var = mean_and_variance(plan, x, valid)
        return jnp.sum(jnp.float32(a) * sum(parts) + jnp.float32(b) * var), (sum(parts), var)

    @jax.jit
    def every(x: Any, along: Any) -> Any:
        slope, moments = jax.grad(loss, has_aux=True)(x)
        forward = jax.jvp(lambda x: loss(x)[0], (x,), (along,))[1]
        return slope, moments, forward, jax.jvp(jax.grad(lambda x: loss(x)[0]), (x,), (along,))[1]

    slope, (mean, var), forward, second = every(np.where(mask, x, np.nan), np.float32(along))
    n, exact, along = mask.sum(0, keepdims=True), np.where(mask, x.astype(float), 0), np.where(mask, along, 0)
    centre = exact.sum(0, keepdims=True) / n
    d = np.where(mask, exact - centre, 0)
    want = np.where(mask, a / n + 2 * b * d / n, 0)
    np.testing.assert_allclose(mean, centre, rtol=1e-6)
    np.testing.assert_allclose(var, (d**2).sum(0, keepdims=True) / n, rtol=1e-5)
    np.testing.assert_allclose(slope, want, atol=1e-6)
    np.testing.assert_allclose(forward, (want * along).sum(), rtol=1e-4)
    change = along - along.sum(0, keepdims=True) / n
    np.testing.assert_allclose(second, np.where(mask, 2 * b * change / n, 0), atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 40), (300, 256), (1030, 256)])
def test_the_mean_and_the_variance_keep_their_digits_under_a_mask(shape: tuple[int, int]) -> None:
    """At -65 mV with a spread of 0.01 mV, in a few values and in many, whichever precision they are added up in."""
    rng = np.random.default_rng(1)
    x = (-65 + 0.01 * rng.standard_normal(shape)).astype(np.float32)
    valid = rng.random(shape) < 0.3
    valid[3], valid[4], valid[4, 7] = False, False, True
    plan = plan_for(x.shape, x.dtype, shape, Reduction((1,)), centred=True, compensated=False, dtype=x.dtype)
    parts, var = jax.jit(lambda x, valid: mean_and_variance(plan, x, valid))(np.where(valid, x, np.nan), valid)
    n, exact = np.maximum(valid.sum(1, keepdims=True), 1), np.where(valid, x.astype(float), 0)
    mean = exact.sum(1, keepdims=True) / n
    want = (np.where(valid, exact - mean, 0) ** 2).sum(1, keepdims=True) / n
    np.testing.assert_allclose(sum(np.asarray(part, float) for part in parts), mean, rtol=2e-9)
    np.testing.assert_allclose(var, want, rtol=2e-6, atol=1e-12)
