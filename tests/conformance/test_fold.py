"""Folded weights beside those of torch.nn.utils.fusion, also where the variance is as small as epsilon."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from braindnorm import BatchNorm
from braindnorm.interop import fold_norm


def pair(kind: type[torch.nn.Module], channels: int) -> tuple[BatchNorm, torch.nn.Module]:
    """Make the same trained norm twice, with variances around 1e-5."""
    rng = np.random.default_rng(0)
    mean, scale, bias = rng.normal(0, 1, (3, channels)).astype(np.float32)
    var = (1e-5 * rng.uniform(0.1, 10, channels)).astype(np.float32)
    ours, theirs = BatchNorm(channels), kind(channels).eval()
    ours.running_mean.value, ours.running_var.value = jnp.asarray(mean), jnp.asarray(var)
    ours.weight.value = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    values = {"running_mean": mean, "running_var": var, "weight": scale, "bias": bias}
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in values.items()}, strict=False)
    return ours, theirs


def assert_same(ours: dict, theirs: torch.nn.Module, axes: tuple[int, ...]) -> None:
    for key, expected in (("weight", theirs.weight), ("bias", theirs.bias)):
        expected = expected.detach().numpy()
        found = np.asarray(ours[key])
        found = found.transpose(axes) if key == "weight" else found.reshape(-1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_linear() -> None:
    ours, theirs = pair(torch.nn.BatchNorm1d, 4)
    layer, other = brainstate.nn.Linear(5, 4), torch.nn.Linear(5, 4).eval()
    other.weight.data = torch.from_numpy(np.array(layer.weight.value["weight"]).T.copy())
    other.bias.data = torch.from_numpy(np.array(layer.weight.value["bias"]))
    assert_same(fold_norm(layer, ours).weight.value, fuse_linear_bn_eval(other, theirs), (1, 0))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution(dims: int) -> None:
    ours, theirs = pair(getattr(torch.nn, f"BatchNorm{dims}d"), 6)
    layer = getattr(brainstate.nn, f"Conv{dims}d")((*(5,) * dims, 4), 6, 3, groups=2)
    other = getattr(torch.nn, f"Conv{dims}d")(4, 6, 3, groups=2, bias=False).eval()
    axes = (dims + 1, dims, *range(dims))
    other.weight.data = torch.from_numpy(np.array(layer.weight.value["weight"]).transpose(axes).copy())
    assert_same(fold_norm(layer, ours).weight.value, fuse_conv_bn_eval(other, theirs), axes)
