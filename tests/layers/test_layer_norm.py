"""What LayerNorm has of its own."""

from typing import Any

import numpy as np
import pytest

from braindnorm import LayerNorm
from tests.support import reference
from tests.support.norms import draw, parameters, randomize


@pytest.mark.parametrize("shape", [6, (6,), (4, 6), [3, 4, 6]], ids=str)
def test_from_normalized_shape(shape: Any) -> None:
    """The trailing axes are normalized together, with a scale and a bias for each of their elements."""
    layer = randomize(LayerNorm.from_normalized_shape(shape))
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    assert {v.shape for v in parameters(layer).values()} == {sizes}
    x = draw(2, 3, 4, 6)
    axes = tuple(range(-len(sizes), 0))
    want = reference.layer_norm(x, axes, epsilon=1e-5, **parameters(layer))
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-5)


def test_from_normalized_shape_without_parameters() -> None:
    assert LayerNorm.from_normalized_shape(6, 0.5, False).weight is None
    assert LayerNorm.from_normalized_shape(6, elementwise_affine=False, use_bias=True).weight is None
    assert set(LayerNorm.from_normalized_shape(6, use_bias=False).weight.value) == {"scale"}
    x = draw(3, 6)
    y = LayerNorm.from_normalized_shape(6, 0.5, False)(x)
    np.testing.assert_allclose(y, reference.layer_norm(x, epsilon=0.5), rtol=1e-5, atol=1e-5)


def test_from_normalized_shape_takes_the_other_options() -> None:
    class Special(LayerNorm):
        pass

    layer = Special.from_normalized_shape((4, 6), masked_output="input", name="soma")
    assert (type(layer), layer.masked_output, layer.name, layer.epsilon) == (Special, "input", "soma", 1e-5)


@pytest.mark.parametrize("feature_axes", [-1, 0, (0, 1), [0, 2], (-3, -2, -1)], ids=str)
def test_scale_and_bias_vary_along_the_feature_axes(feature_axes: Any) -> None:
    layer = randomize(LayerNorm((3, 4, 6), feature_axes=feature_axes))
    axes = {axis % 3 for axis in np.atleast_1d(feature_axes)}
    shape = tuple(n if axis in axes else 1 for axis, n in enumerate((3, 4, 6)))
    assert {v.shape for v in parameters(layer).values()} == {shape}
    x = draw(2, 3, 4, 6)
    np.testing.assert_allclose(layer(x), reference.layer_norm(x, **parameters(layer)), rtol=1e-5, atol=1e-5)
