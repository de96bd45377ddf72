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


def held(centred: bool) -> Callable[..., Any]:
    """Return the reference by statistics of the real part: to a complex step they are constants."""

    def norm(x: Any, mask: Any) -> Any:
        seen = np.where(mask, np.real(x), 0)
        mean = reference._mean(seen, -1, mask) if centred else 0
        var = reference._mean(np.where(mask, seen - mean, 0) ** 2, -1, mask)
        return np.where(mask, x - mean, 0) / np.sqrt(var + EPSILON)

    return norm


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


STOPPED: dict[str, Any] = {"epsilon": EPSILON, "stop_statistics_gradient": True}
WITH_HELD = NORMS | {
    "layer, held": (lambda x, mask: functional.layer_norm(x, mask=mask, **STOPPED), held(centred=True)),
    "rms, held": (lambda x, mask: functional.rms_norm(x, mask=mask, **STOPPED), held(centred=False)),
}


class Case:
    """Two steps of a norm under a mask of elements, and a loss of what a scan makes of them."""

    def __init__(self, kind: str) -> None:
        self.ours, self.one = WITH_HELD[kind]
        rng = np.random.default_rng(0)
        self.x, self.tangent, self.g = (rng.normal(size=(STEPS, TRIALS, FEATURES)) for _ in range(3))
        self.mask = np.ones(self.x.shape, bool)
        self.mask[0, 1, 2:] = self.mask[1, 0, :2] = self.mask[1, 2, 3] = False

    def loss(self, x: Any, w: Any = 1.0) -> Any:
        ys = jax.lax.scan(lambda carry, at: (carry, self.ours(*at)), 0, (x, jnp.asarray(self.mask)))[1]
        return jnp.sum(jnp.sin(w * ys) * self.g[..., : ys.shape[-1]])

    def want(self, x: Any) -> Any:
        return np.sum(np.sin(self.outputs(x)) * self.g[..., : self.outputs(x).shape[-1]])

    def want_slope(self, x: Any) -> Any:
        """The derivative of the loss in w, at 1."""
        ys = self.outputs(x)
        return np.sum(np.cos(ys) * ys * self.g[..., : ys.shape[-1]])

    def outputs(self, x: Any) -> Any:
        return np.stack([self.one(*at) for at in zip(x, self.mask, strict=True)])


@pytest.mark.parametrize("kind", NORMS)
def test_second_derivatives_through_a_scan(kind: str) -> None:
    case = Case(kind)

    @jax.jit
    def both_orders(x: Any, tangent: Any) -> Any:
        gradient = jax.grad(case.loss)
        return jax.jvp(gradient, (x,), (tangent,))[1], jax.grad(lambda x: jnp.sum(gradient(x) * tangent))(x)

    want = np.tensordot(reference.hessian(case.want, case.x), case.tangent, 3)
    for product in both_orders(jnp.asarray(case.x, jnp.float32), jnp.asarray(case.tangent, jnp.float32)):
        np.testing.assert_allclose(product, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", WITH_HELD)
def test_the_gradient_of_what_a_weight_behind_it_is_worth(kind: str) -> None:
    """The inner derivative does not go through the norm, the outer one does."""
    case = Case(kind)
    slope = jax.grad(case.loss, argnums=1)
    got = jax.jit(jax.grad(lambda x: slope(x, jnp.float32(1))))(jnp.asarray(case.x, jnp.float32))
    np.testing.assert_allclose(got, reference.jacobian(case.want_slope, case.x), rtol=1e-4, atol=1e-4)
