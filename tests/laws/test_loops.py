"""Law L8 within a loop: of what it keeps for a second derivative, JAX takes the functions without their rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional
from tests.support import reference

STEPS, TRIALS, FEATURES = 2, 3, 4
EPSILON = 0.1


def moments(x: Any, mask: Any) -> Any:
    """Return mean and variance, one beside the other."""
    mean = reference._mean(np.where(mask, x, 0), -1, mask)
    return np.concatenate([mean, reference._mean(np.where(mask, x - mean, 0) ** 2, -1, mask)], -1)


def divisive(exponent: float) -> Callable[..., Any]:
    def response(x: Any, mask: Any) -> Any:
        drive = np.where(mask & (np.real(x) > 0), x, 0) ** exponent
        return drive / (1 + reference._mean(drive, -1, mask))

    return response


# ours of one step, and the reference of one step
NORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "layer": (
        lambda x, mask: functional.layer_norm(x, epsilon=EPSILON, mask=mask),
        lambda x, mask: reference.layer_norm(x, epsilon=EPSILON, mask=mask),
    ),
    "group": (
        lambda x, mask: functional.group_norm(x, 2, epsilon=EPSILON, mask=mask),
        lambda x, mask: reference.group_norm(x, 2, epsilon=EPSILON, mask=mask),
    ),
    "batch": (
        lambda x, mask: functional.batch_norm(x, epsilon=EPSILON, mask=mask)[0],
        lambda x, mask: reference.layer_norm(x, 0, epsilon=EPSILON, mask=mask),
    ),
    "moments": (
        lambda x, mask: jnp.concatenate(functional.moments(x, mask=mask, keepdims=True)[1:], -1),
        moments,
    ),
    "divisive": (lambda x, mask: functional.divisive_norm(x, 1.0, mask=mask), divisive(2)),
    "divisive, n = 1.5": (lambda x, mask: functional.divisive_norm(x, 1.0, exponent=1.5, mask=mask), divisive(1.5)),
    "divisive, a sigma for each": (
        lambda x, mask: functional.divisive_norm(x, jnp.ones(FEATURES), mask=mask),
        divisive(2),
    ),
}


@pytest.mark.parametrize("kind", NORMS)
def test_second_derivatives_through_a_scan(kind: str) -> None:
    ours, one = NORMS[kind]
    rng = np.random.default_rng(0)
    x, tangent, g = (rng.normal(size=(STEPS, TRIALS, FEATURES)) for _ in range(3))
    mask = np.ones(x.shape, bool)
    mask[0, 1, 2:] = mask[1, 0, :2] = mask[1, 2, 3] = False

    def loss(x: Any) -> Any:
        ys = jax.lax.scan(lambda carry, at: (carry, ours(*at)), 0, (x, jnp.asarray(mask)))[1]
        return jnp.sum(jnp.sin(ys) * g[..., : ys.shape[-1]])

    def want(x: Any) -> Any:
        ys = np.stack([one(*at) for at in zip(x, mask, strict=True)])
        return np.sum(np.sin(ys) * g[..., : ys.shape[-1]])

    @jax.jit
    def both_orders(x: Any, tangent: Any) -> Any:
        gradient = jax.grad(loss)
        return jax.jvp(gradient, (x,), (tangent,))[1], jax.grad(lambda x: jnp.sum(gradient(x) * tangent))(x)

    hessian = np.tensordot(reference.hessian(want, x), tangent, 3)
    for product in both_orders(jnp.asarray(x, jnp.float32), jnp.asarray(tangent, jnp.float32)):
        np.testing.assert_allclose(product, hessian, rtol=1e-4, atol=1e-4)
