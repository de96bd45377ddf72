"""Our layers against those of flax.nnx and flax.linen: the same options, weights and values, both ways."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import from_flax, to_flax, to_linen
from tests.interop.frameworks.random_values import normal

# kind, features, options of flax's, in_size where it is needed, the shape of an input
CASES = {
    "layer": ("LayerNorm", 8, {}, None, (5, 8)),
    "layer, two reduced axes": ("LayerNorm", 8, {"reduction_axes": (-2, -1), "epsilon": 0.1}, None, (2, 5, 8)),
    "layer, positive axes": ("LayerNorm", 8, {"reduction_axes": (1, 2)}, None, (2, 5, 8)),
    "layer, two feature axes": ("LayerNorm", 24, {"feature_axes": (-2, -1)}, (3, 8), (5, 3, 8)),
    "layer, another feature axis": ("LayerNorm", 3, {"feature_axes": -2}, (3, 8), (5, 3, 8)),
    "layer, no bias": ("LayerNorm", 8, {"use_bias": False}, None, (5, 8)),
    "layer, no scale": ("LayerNorm", 8, {"use_scale": False}, None, (5, 8)),
    "layer, half": ("LayerNorm", 8, {"dtype": jnp.float16}, None, (5, 8)),
    "layer, plain": ("LayerNorm", 8, {"use_scale": False, "use_bias": False}, 8, (5, 8)),
    "rms": ("RMSNorm", 8, {}, None, (2, 5, 8)),
    "rms, plain": ("RMSNorm", 8, {"use_scale": False, "reduction_axes": (-1, -2)}, 8, (2, 5, 8)),
    "group": ("GroupNorm", 6, {"num_groups": 2}, None, (5, 4, 3, 6)),
    "group, no space": ("GroupNorm", 6, {"num_groups": 2}, None, (5, 6)),
    "group, by size": ("GroupNorm", 6, {"num_groups": None, "group_size": 2}, None, (5, 4, 6)),
    "group, given axes": ("GroupNorm", 6, {"num_groups": 3, "reduction_axes": (1, 2, -1)}, None, (5, 4, 3, 6)),
    "group, plain": ("GroupNorm", 6, {"num_groups": 3, "use_scale": False, "use_bias": False}, 6, (5, 4, 6)),
}
BACK = [case for case in CASES if case != "group, given axes"]


def nnx_norm(kind: str, features: int, options: dict[str, Any]) -> nnx.Module:
    module = getattr(nnx, kind)(features, **options, rngs=nnx.Rngs(0))
    for number, key in enumerate(("scale", "bias")):
        if getattr(module, key, None) is not None:
            setattr(module, key, nnx.Param(jnp.asarray(normal((features,), seed=number))))
    return module


def linen_norm(kind: str, options: dict[str, Any], x: np.ndarray) -> tuple[linen.Module, Any]:
    module = getattr(linen, kind)(**options)
    variables = module.init(jax.random.key(0), x)
    return module, jax.tree.map(lambda a: jnp.asarray(normal(a.shape, seed=a.size)), variables)


def close(actual: Any, expected: Any) -> None:
    assert actual.dtype == expected.dtype
    tolerance = 1e-6 if actual.dtype == jnp.float32 else float(jnp.finfo(actual.dtype).eps) * 4
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_from_nnx_gives_the_same_values(case: str) -> None:
    kind, features, options, in_size, shape = CASES[case]
    module, x = nnx_norm(kind, features, options), normal(shape)
    close(from_flax(module, in_size=in_size)(x), module(x))


@pytest.mark.parametrize("case", CASES)
def test_from_linen_gives_the_same_values(case: str) -> None:
    kind, _, options, in_size, shape = CASES[case]
    x = normal(shape)
    module, variables = linen_norm(kind, options, x)
    close(from_flax(module, variables, in_size)(x), module.apply(variables, x))


@pytest.mark.parametrize("case", BACK)
def test_nnx_there_and_back(case: str) -> None:
    kind, features, options, in_size, shape = CASES[case]
    module, x = nnx_norm(kind, features, options), normal(shape)
    back = to_flax(from_flax(module, in_size=in_size))
    assert type(back) is type(module)
    assert jax.tree.map(jnp.shape, nnx.state(back)) == jax.tree.map(jnp.shape, nnx.state(module))
    close(back(x), module(x))


@pytest.mark.parametrize("case", BACK)
def test_linen_there_and_back(case: str) -> None:
    kind, _, options, in_size, shape = CASES[case]
    x = normal(shape)
    module, variables = linen_norm(kind, options, x)
    back, values = to_linen(from_flax(module, variables, in_size))
    assert type(back) is type(module)
    assert jax.tree.map(jnp.shape, values["params"]) == jax.tree.map(jnp.shape, variables.get("params", {}))
    close(back.apply(values, x), module.apply(variables, x))


def test_masked_positions_keep_the_values_of_flax() -> None:
    module, x = nnx_norm("LayerNorm", 8, {}), normal((5, 8))
    mask = jnp.arange(8) < 5
    layer = from_flax(module)
    close(layer(x, mask=mask), module(x, mask=mask))
    close(to_flax(layer)(x, mask=mask), layer(x, mask=mask))


def test_the_careful_variance_is_chosen() -> None:
    x = (-65 + 0.01 * normal((5, 64))).astype(np.float32)
    layer = LayerNorm(64)
    module, variables = to_linen(layer)
    truth = (x - x.mean(-1, keepdims=True, dtype=np.float64)) / np.sqrt(
        x.var(-1, keepdims=True, dtype=np.float64) + 1e-6
    )
    for actual in (to_flax(layer)(x), module.apply(variables, x)):
        np.testing.assert_allclose(actual, truth, atol=2e-3)


def test_groups_without_weights_tell_their_size() -> None:
    module, x = nnx_norm("GroupNorm", 6, {"num_groups": 3, "use_scale": False, "use_bias": False}), normal((5, 4, 6))
    layer = from_flax(module)
    assert (layer.in_size, layer.num_groups) == ((6,), 3)
    close(layer(x), module(x))


def test_devices_go_along() -> None:
    layer, x = LayerNorm(8, axis_name="device"), normal((4, 8))
    expected = brainstate.transform.vmap(layer, axis_name="device")(x)
    close(jax.vmap(to_flax(layer), axis_name="device")(x), expected)


@pytest.mark.parametrize("convert", [to_flax, to_linen])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerNorm(8, unit=u.mV), "LayerNorm has unit=mV, which flax.*LayerNorm lacks"),
        (RMSNorm(8, masked_output="input"), "masked_output=input"),
        (LayerNorm(8, epsilon=0.1 * u.mV), "a unit in epsilon"),
        (GroupNorm((6, 4), 0, num_groups=2), "channels on axis -2"),
        (GroupNorm(6, num_groups=2, reduction_axes=-2), r"reduction_axes=\(-2,\)"),
        (brainstate.nn.LayerNorm(8), "takes BatchNorm.*, GroupNorm, LayerNorm, RMSNorm"),
    ],
)
def test_what_flax_lacks_is_named(convert: Any, layer: LayerNorm, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(layer)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (linen.LayerNorm(), "of linen has a scale, but the variables hold none. Pass what module.init returned"),
        (linen.LayerNorm(use_scale=False, use_bias=False), "does not tell how long its feature axes .* Give in_size"),
        (nnx.LayerNorm(8, feature_axes=(-2, -1), rngs=nnx.Rngs(0)), "does not tell how long its feature axes"),
        (nnx.LayerNorm(8, feature_axes=1, rngs=nnx.Rngs(0)), r"counts feature_axes=\(1,\) from the left"),
        (nnx.InstanceNorm(8, rngs=nnx.Rngs(0)), "takes BatchNorm.*, GroupNorm, LayerNorm, RMSNorm"),
    ],
)
def test_what_is_not_known_is_asked_for(module: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        from_flax(module)
