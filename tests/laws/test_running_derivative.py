"""Law L8 for batch norm: every kind of derivative in both phases, and what is kept has none."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import BatchNorm
from braindnorm.functional import batch_norm
from tests.support import reference
from tests.support.norms import draw, float64

MASK = np.arange(6)[:, None] < np.array([6, 4, 1, 0])
PULL, V = draw(6, 4, seed=1).astype(float), draw(6, 4, seed=2).astype(float)


def loss(norm: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: jnp.sum(PULL * norm(x) ** 3)


def expected(x: np.ndarray, mask: Any) -> np.ndarray:
    """Return the gradient of the loss, by a complex step for each element."""
    found = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        step = x.astype(complex)
        step[at] += 1e-30j
        found[at] = np.sum(PULL * reference.layer_norm(step, 0, mask=mask) ** 3).imag / 1e-30
    return found


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("way", ["fast", "across devices"])
def test_first_and_second_derivatives(way: str, masked: bool) -> None:
    x, mask = draw(6, 4).astype(float), MASK if masked else np.ones((6, 4), bool)
    options: dict[str, Any] = {"axis_name": "device"} if way == "across devices" else {}

    def norm(x: Any) -> Any:
        call = lambda x: batch_norm(x, mask=mask, **options)[0]  # noqa: E731
        return jax.vmap(call, axis_name="device")(x[None])[0] if options else call(x)

    @jax.jit
    def every(x: Any) -> Any:
        gradient, along = jax.grad(loss(norm)), lambda x: jax.jvp(loss(norm), (x,), (V,))[1]
        second = (
            jax.jvp(gradient, (x,), (V,))[1],
            jax.grad(along)(x),
            jax.grad(lambda x: jnp.sum(gradient(x) * V))(x),
        )
        return gradient(x), along(x), second

    with float64():
        gradient, along, second = every(x)
    np.testing.assert_allclose(gradient, expected(x, mask), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(along, np.sum(expected(x, mask) * V), rtol=1e-9)
    h = 1e-5
    want = (expected(x + h * V, mask) - expected(x - h * V, mask)) / (2 * h)
    for got in second:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fit", [True, False])
def test_transforms_of_brainstate_agree(fit: bool) -> None:
    """Gradient, forward gradient, remat and a loop give one derivative; remat makes one update."""
    x, transform = draw(6, 4), brainstate.transform
    ways: dict[str, Callable[..., Any]] = {
        "plain": lambda layer: layer,
        "remat": transform.checkpoint,
        "loop": lambda layer: lambda x: transform.for_loop(layer, x[None])[0],
        "jit": transform.jit,
    }
    layers = {how: BatchNorm(4, momentum=0.5) for how in ways}
    every = transform.jit(lambda x: {how: transform.grad(loss(way(layers[how])))(x) for how, way in ways.items()})
    with brainstate.environ.context(fit=fit):
        found = every(x)
    wide = np.asarray(x, float)
    for how, layer in layers.items():
        mean = 0.5 * wide.mean(0) * fit
        np.testing.assert_allclose(layer.running_mean.value, mean, rtol=1e-5, atol=1e-6, err_msg=how)
    want = expected(wide, np.ones((6, 4), bool)) if fit else 3 * PULL * wide**2
    for how, gradient in found.items():
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-3, err_msg=how)


def test_a_constant_shift_has_no_tangent() -> None:
    """With use_fast_variance=False exactly none in training; in evaluation it passes like any other."""
    x = jnp.asarray(draw(41, 3))
    _, tangent = jax.jvp(lambda x: batch_norm(x, use_fast_variance=False)[0], (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, 0)
    layer = BatchNorm(3, frozen=True, epsilon=0.0)
    np.testing.assert_array_equal(jax.jvp(layer, (x,), (jnp.ones_like(x),))[1], 1)
