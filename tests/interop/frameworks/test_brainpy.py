"""Our layers against brainpy.dnn's: the same options, the same weights, the same values, both ways."""

from typing import Any

import brainpy
import brainpy.math as bm
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import from_brainpy, to_brainpy
from tests.interop.frameworks.random_values import normal

SOURCES = {
    "layer": (lambda: brainpy.dnn.LayerNorm(8), (5, 8)),
    "layer, training": (lambda: brainpy.dnn.LayerNorm(8, mode=bm.training_mode), (5, 8)),
    "layer, two axes": (lambda: brainpy.dnn.LayerNorm((3, 8), epsilon=0.1), (2, 5, 3, 8)),
    "layer, plain": (lambda: brainpy.dnn.LayerNorm(8, elementwise_affine=False), (5, 8)),
    "group": (lambda: brainpy.dnn.GroupNorm(2, 6), (5, 4, 3, 6)),
    "group, no space": (lambda: brainpy.dnn.GroupNorm(2, 6, epsilon=0.1), (5, 6)),
    "group, plain": (lambda: brainpy.dnn.GroupNorm(3, 6, affine=False), (5, 4, 6)),
    "instance": (lambda: brainpy.dnn.InstanceNorm(6), (5, 4, 6)),
}


def randomize(module: Any) -> Any:
    if hasattr(module, "scale"):
        for number, weight in enumerate((module.scale, module.bias)):
            weight.value = jnp.asarray(normal(weight.shape, seed=number))
    return module


@pytest.mark.parametrize("case", SOURCES)
def test_from_brainpy_gives_the_same_values(case: str) -> None:
    make, shape = SOURCES[case]
    module, x = randomize(make()), jnp.asarray(normal(shape))
    np.testing.assert_allclose(from_brainpy(module)(x), bm.as_jax(module(x)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SOURCES)
def test_there_and_back(case: str) -> None:
    make, shape = SOURCES[case]
    module, x = randomize(make()), jnp.asarray(normal(shape))
    back = to_brainpy(from_brainpy(module))
    assert isinstance(module, type(back))
    np.testing.assert_allclose(bm.as_jax(back(x)), bm.as_jax(module(x)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerNorm(8, unit=u.mV), "LayerNorm has unit=mV, which brainpy.dnn.LayerNorm lacks"),
        (LayerNorm(8, use_bias=False), "one of scale and bias without the other"),
        (LayerNorm((5, 8), reduction_axes=-2), "reduction_axes="),
        (GroupNorm((6, 4), 0, num_groups=2), "channels on axis -2"),
        (RMSNorm(8), "takes BatchNorm, GroupNorm, LayerNorm; got braindnorm.layers.rms_norm.RMSNorm"),
    ],
)
def test_what_brainpy_lacks_is_named(layer: LayerNorm, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        to_brainpy(layer)


def test_other_classes_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"takes BatchNorm1d, .*, GroupNorm, InstanceNorm, LayerNorm"):
        from_brainpy(brainpy.dnn.Dense(8, 8, mode=bm.training_mode))
    norm = brainpy.dnn.LayerNorm(8, mode=bm.training_mode)
    assert from_brainpy(norm, in_size=(3, 8)).in_size == (3, 8)
    with pytest.raises(ConversionError, match=r"normalizes axes of shape \(8,\), but in_size=\(4,\)"):
        from_brainpy(norm, in_size=4)
