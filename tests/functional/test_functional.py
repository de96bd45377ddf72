"""The norms as functions."""

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional
from tests.support import reference
from tests.support.norms import NORMS, draw, parameters, randomize

every_norm = pytest.mark.parametrize("kind", NORMS)


@every_norm
def test_a_function_is_its_layer(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(6, unit=u.mV, epsilon=0.5, masked_output="input", out_unit=u.uvolt))
    x, mask = jnp.asarray(draw(5, 6)) * u.volt, np.arange(6) < 4
    options: dict[str, Any] = {"unit": u.mV, "epsilon": 0.5, "masked_output": "input", "out_unit": u.uvolt}
    y = NORMS[kind].function(x, mask=mask, **parameters(layer), **options)
    np.testing.assert_array_equal(y / u.uvolt, layer(x, mask=mask) / u.uvolt)


@pytest.mark.parametrize("shape", [(), (6,), (4, 1), (4, 6), (3, 4, 6), (3, 1, 1), (1, 1, 1, 6)], ids=str)
def test_scale_and_bias_of_any_shape(shape: tuple[int, ...]) -> None:
    x, scale, bias = draw(3, 4, 6), draw(*shape, seed=1), draw(*shape, seed=2)
    want = {"scale": scale.reshape(shape[-3:]), "bias": bias.reshape(shape[-3:])}
    for axes in (-1, (-2, -1), 0):
        y, pull = jax.vjp(lambda s, b, a=axes: functional.layer_norm(x, s, b, reduction_axes=a), scale, bias)
        np.testing.assert_allclose(y, reference.layer_norm(x, axes, **want), rtol=1e-5, atol=1e-5)
        assert [g.shape for g in pull(y)] == [shape, shape]


def test_groups_along_any_axis() -> None:
    x = draw(3, 4, 6)
    y = functional.group_norm(x, 2, feature_axis=1)
    np.testing.assert_allclose(y, reference.group_norm(x, 2, 1, (2,)), rtol=1e-4, atol=1e-5)
    y = functional.group_norm(x, group_size=2, feature_axis=-2, reduction_axes=(0, -1))
    np.testing.assert_allclose(y, reference.group_norm(x, 2, 1, (0, 2)), rtol=1e-4, atol=1e-5)
    y = functional.group_norm(x[0], 2, feature_axis=0)
    np.testing.assert_allclose(y, reference.group_norm(x[0], 2, 0, (1,)), rtol=1e-4, atol=1e-5)


@every_norm
def test_an_affine_of_your_own(kind: str) -> None:
    class Doubled:
        value = None

        def execute(self, z: jax.Array) -> jax.Array:
            return 2 * z

    x = draw(5, 6)
    y = NORMS[kind].function(x, affine=Doubled())
    np.testing.assert_allclose(y, 2 * NORMS[kind].reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [-1, 0, (0, -1), (0, 1, 2)], ids=str)
def test_moments(axes: Any, keepdims: bool) -> None:
    x = draw(3, 4, 6, loc=2)
    count, mean, var = functional.moments(x, axes, keepdims=keepdims)
    wide = x.astype(float)
    np.testing.assert_allclose(mean, wide.mean(axes, keepdims=keepdims), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var(axes, keepdims=keepdims), rtol=1e-5)
    np.testing.assert_array_equal(count, np.ones_like(x).sum(axes, keepdims=keepdims))


def test_moments_of_spikes_and_of_half_precision() -> None:
    spikes = draw(4, 50) > 0.5
    np.testing.assert_allclose(functional.moments(spikes).mean, spikes.mean(-1), rtol=1e-6)
    x = draw(4, 50, loc=100).astype(np.float16)
    assert functional.moments(x).var.dtype == jnp.float32
    np.testing.assert_allclose(functional.moments(x).var, x.astype(float).var(-1), rtol=1e-5)


def test_gradients_of_moments() -> None:
    """The mean of n has the gradient 1/n at what is valid, the variance 2 (x - mean) / n."""
    x, mask = draw(6), np.arange(6) < 4
    mean, var = jax.jacobian(lambda x: functional.moments(x, mask=mask)[1:])(x)
    np.testing.assert_allclose(mean, mask / 4, rtol=1e-6)
    np.testing.assert_allclose(var, mask * (x - x[:4].mean()) / 2, rtol=1e-5, atol=1e-6)
