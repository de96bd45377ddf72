"""Our layers against equinox.nn's: the same options, the same weights, the same values, both ways."""

from typing import Any

import brainunit as u
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import from_equinox, to_equinox
from tests.interop.frameworks.random_values import normal

SOURCES = {
    "layer": (lambda: eqx.nn.LayerNorm(8), None, (8,)),
    "layer, two axes": (lambda: eqx.nn.LayerNorm((3, 8), eps=0.1), None, (3, 8)),
    "layer, no bias": (lambda: eqx.nn.LayerNorm(8, use_bias=False), None, (8,)),
    "layer, no scale": (lambda: eqx.nn.LayerNorm(8, use_weight=False), None, (8,)),
    "layer, plain": (lambda: eqx.nn.LayerNorm(8, use_weight=False, use_bias=False), None, (8,)),
    "rms": (lambda: eqx.nn.RMSNorm((3, 8), use_bias=False), None, (3, 8)),
    "rms, plain": (lambda: eqx.nn.RMSNorm(8, eps=0.1, use_weight=False, use_bias=False), None, (8,)),
    "group": (lambda: eqx.nn.GroupNorm(2, 6), (6, 4, 3), (6, 4, 3)),
    "group, no space": (lambda: eqx.nn.GroupNorm(2, 6), 6, (6,)),
    "group, plain": (lambda: eqx.nn.GroupNorm(3, eps=0.1, channelwise_affine=False), (6, 7), (6, 7)),
}


def randomize(module: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(normal(a.shape, seed=a.ndim)), module)


@pytest.mark.parametrize("case", SOURCES)
def test_from_equinox_gives_the_same_values(case: str) -> None:
    make, in_size, shape = SOURCES[case]
    module, x = randomize(make()), normal((5, *shape))
    expected = jax.vmap(module)(x)
    layer = from_equinox(module, in_size)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer(x[0]), expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SOURCES)
def test_there_and_back(case: str) -> None:
    make, in_size, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    back = to_equinox(from_equinox(module, in_size))
    assert type(back) is type(module)
    for key in ("weight", "bias"):
        np.testing.assert_array_equal(getattr(back, key), getattr(module, key))
    np.testing.assert_allclose(back(x), module(x), rtol=1e-6, atol=1e-6)


def test_rms_norm_loses_a_bias_of_zeros_and_no_other() -> None:
    module, x = eqx.nn.RMSNorm(8), normal((8,))
    np.testing.assert_allclose(from_equinox(module)(x), module(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(ConversionError, match="has a bias that is not 0, which ours lacks"):
        from_equinox(randomize(module))


def test_options_of_ours_go_along() -> None:
    module, x = randomize(eqx.nn.LayerNorm(8)), normal((8,))
    layer = from_equinox(module, unit=u.mV, out_unit=u.mA)
    np.testing.assert_allclose(layer(x * u.mV).to_decimal(u.mA), module(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerNorm(8, unit=u.mV), "LayerNorm has unit=mV, which equinox.nn.LayerNorm lacks"),
        (RMSNorm(8, axis_name="batch"), "axis_name=batch"),
        (LayerNorm((5, 8), reduction_axes=-2), "reduction_axes="),
        (LayerNorm((5, 8), reduction_axes=(-2, -1)), "feature_axes="),
        (GroupNorm((4, 6), num_groups=2), "channels on axis -1"),
        (GroupNorm((6, 4), 0, 2, use_bias=False), "one of scale and bias without the other"),
    ],
)
def test_what_equinox_lacks_is_named(layer: LayerNorm, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        to_equinox(layer)


def test_what_is_not_known_is_asked_for() -> None:
    with pytest.raises(ConversionError, match=r"Give in_size=\(channels, height, width\)"):
        from_equinox(eqx.nn.GroupNorm(2, channelwise_affine=False))
    for convert, other in ((from_equinox, eqx.nn.Linear(2, 2, key=jax.random.key(0))), (to_equinox, eqx.nn.RMSNorm(2))):
        with pytest.raises(ConversionError, match=r"takes BatchNorm.*, GroupNorm, LayerNorm, RMSNorm"):
            convert(other)
