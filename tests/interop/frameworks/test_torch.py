"""Our layers against torch.nn's: the same options, the same weights, the same values, both ways."""

import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, RMSNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import from_torch, to_torch
from tests.interop.frameworks.random_values import normal

SOURCES = {
    "layer": (lambda: torch.nn.LayerNorm(8), None, (5, 8)),
    "layer, two axes": (lambda: torch.nn.LayerNorm((3, 8), eps=0.1), None, (2, 5, 3, 8)),
    "layer, no bias": (lambda: torch.nn.LayerNorm(8, bias=False), None, (5, 8)),
    "layer, plain": (lambda: torch.nn.LayerNorm(8, elementwise_affine=False), None, (5, 8)),
    "rms": (lambda: torch.nn.RMSNorm((3, 8)), None, (5, 3, 8)),
    "rms, epsilon": (lambda: torch.nn.RMSNorm(8, eps=0.1), None, (2, 5, 8)),
    "rms, plain": (lambda: torch.nn.RMSNorm(8, elementwise_affine=False), None, (5, 8)),
    "group": (lambda: torch.nn.GroupNorm(2, 6), (6, 4, 3), (5, 6, 4, 3)),
    "group, no space": (lambda: torch.nn.GroupNorm(2, 6), 6, (5, 6)),
    "group, no bias": (lambda: torch.nn.GroupNorm(3, 6, bias=False), (6, 7), (5, 6, 7)),
    "group, plain": (lambda: torch.nn.GroupNorm(6, 6, eps=0.1, affine=False), (6, 7), (5, 6, 7)),
}
OURS = {
    "layer": (LayerNorm(8), (5, 8)),
    "layer, a batch axis in in_size": (LayerNorm((5, 8)), (2, 5, 8)),
    "layer, two axes": (LayerNorm.from_normalized_shape((3, 8)), (5, 3, 8)),
    "layer, no bias": (LayerNorm(8, use_bias=False, epsilon=0.1), (5, 8)),
    "layer, plain": (LayerNorm((5, 8), use_bias=False, use_scale=False, reduction_axes=(-2, -1)), (2, 5, 8)),
    "rms": (RMSNorm(8), (5, 8)),
    "rms, plain": (RMSNorm(8, use_scale=False), (5, 8)),
    "group": (GroupNorm((6, 4, 3), feature_axis=0, num_groups=2), (5, 6, 4, 3)),
    "group, given axes": (GroupNorm((6, 4), feature_axis=0, num_groups=2, reduction_axes=-1), (5, 6, 4)),
    "group, no space": (GroupNorm(6, num_groups=3), (5, 6)),
    "group, plain": (GroupNorm(6, num_groups=3, use_bias=False, use_scale=False), (5, 6)),
}


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(normal(parameter.shape, seed=number)))
    return module


def of_torch(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return module(torch.from_numpy(x)).detach().numpy()


@pytest.mark.parametrize("case", SOURCES)
def test_from_torch_gives_the_same_values(case: str) -> None:
    make, in_size, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    layer = from_torch(module, in_size)
    np.testing.assert_allclose(layer(x), of_torch(module, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SOURCES)
def test_there_and_back(case: str) -> None:
    make, in_size, shape = SOURCES[case]
    module, x = randomize(make()), normal(shape)
    back = to_torch(from_torch(module, in_size))
    assert type(back) is type(module)
    assert back.state_dict().keys() == module.state_dict().keys()
    np.testing.assert_allclose(of_torch(back, x), of_torch(module, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", OURS)
def test_to_torch_gives_the_same_values(case: str) -> None:
    layer, shape = OURS[case]
    x = normal(shape)
    np.testing.assert_allclose(of_torch(randomize(to_torch(layer)), x).shape, x.shape)
    np.testing.assert_allclose(of_torch(to_torch(layer), x), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_keep_their_dtype(dtype: torch.dtype) -> None:
    module = randomize(torch.nn.LayerNorm(8, dtype=dtype))
    layer = from_torch(module)
    assert str(layer.weight.value["scale"].dtype) == str(dtype).removeprefix("torch.")
    back = to_torch(layer)
    assert back.weight.dtype == dtype
    assert torch.equal(back.weight, module.weight)
    assert torch.equal(back.bias, module.bias)


def test_groups_under_leading_axes_that_torch_does_not_know() -> None:
    module = randomize(torch.nn.GroupNorm(2, 6))
    x = normal((7, 5, 6, 4))
    per_step = np.stack([of_torch(module, step) for step in x])
    np.testing.assert_allclose(from_torch(module, (6, 4))(x), per_step, rtol=1e-6, atol=1e-6)


def test_options_of_ours_go_along() -> None:
    layer = from_torch(torch.nn.LayerNorm(8), unit=u.mV, out_unit=u.UNITLESS, epsilon=0.1 * u.mV)
    x = normal((5, 8))
    expected = of_torch(torch.nn.LayerNorm(8, eps=0.01), x)
    np.testing.assert_allclose(layer(x * u.mV), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            LayerNorm(8, unit=u.mV),
            r"LayerNorm has unit=mV, which torch.nn.LayerNorm lacks. Build the layer with unit=None",
        ),
        (LayerNorm(8, out_unit=u.mA), "out_unit=mA"),
        (LayerNorm(8, epsilon=0.1 * u.mV), "a unit in epsilon=0.1 mV"),
        (LayerNorm(8, masked_output="input"), "masked_output=input"),
        (RMSNorm(8, axis_name="batch"), "axis_name=batch"),
        (RMSNorm(8, dtype=jnp.float16), "dtype="),
        (LayerNorm((5, 8), reduction_axes=(1, 2)), r"reduction_axes=\(1, 2\)"),
        (LayerNorm((5, 8), reduction_axes=-2), r"reduction_axes=\(-2,\)"),
        (LayerNorm((5, 8), reduction_axes=(-2, -1)), r"feature_axes=\(1,\)"),
        (LayerNorm(8, use_scale=False), "a bias without a scale"),
        (GroupNorm((4, 3, 6), num_groups=2), "channels on axis -1"),
        (GroupNorm((6, 4, 3), 0, 2, reduction_axes=-1), r"reduction_axes=\(-1,\)"),
    ],
)
def test_what_torch_lacks_is_named(layer: LayerNorm, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        to_torch(layer)


def test_a_size_ends_with_the_normalized_shape() -> None:
    for module in (torch.nn.LayerNorm(4), torch.nn.RMSNorm(4)):
        assert from_torch(module, in_size=(9, 4)).in_size == (9, 4)
        for size in ((9, 9), 9, (4, 9)):
            with pytest.raises(ConversionError, match=r"normalizes axes of shape \(4,\), but in_size=.*end it with"):
                from_torch(module, in_size=size)


def test_group_norm_asks_for_its_size() -> None:
    with pytest.raises(ConversionError, match=r"Give in_size=\(6, height, width\)"):
        from_torch(torch.nn.GroupNorm(2, 6))
    with pytest.raises(ConversionError, match=r"has 6 channels, but in_size=\(4, 6\)"):
        from_torch(torch.nn.GroupNorm(2, 6), (4, 6))


def test_other_classes_are_refused() -> None:
    class Own(torch.nn.LayerNorm):
        pass

    for other in (torch.nn.SyncBatchNorm(8), Own(8), LayerNorm(8)):
        with pytest.raises(ConversionError, match=r"takes BatchNorm.*, GroupNorm, LayerNorm, RMSNorm"):
            from_torch(other)
    with pytest.raises(ConversionError, match=r"takes BatchNorm.*, GroupNorm, LayerNorm, RMSNorm"):
        to_torch(DivisiveNorm(8))
