"""Law L4 for what a batch norm keeps: the running statistics of all devices together, the same on each."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from braindnorm import BatchNorm
from tests.laws.devices import DEVICES, GROUPS, TRANSFORMS, float64, group_of, mesh_of

BATCH, CHANNELS = 3, 6
every_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def data(masked: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = 3 * rng.normal(size=(DEVICES, BATCH, CHANNELS)) - 65
    mask = rng.random(x.shape) < 0.6
    mask[[2, 5]] = False  # 5 is alone in its group, where groups are uneven
    mask[..., 4] = False
    return x, mask if masked else np.ones_like(mask)


def moments(x: np.ndarray, mask: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = mask.sum(axes)
    mean = np.where(mask, x, 0).sum(axes) / np.maximum(count, 1)
    return count, mean, np.where(mask, (x - mean) ** 2, 0).sum(axes) / np.maximum(count, 1)


def train(layer: Any, x: np.ndarray, mask: np.ndarray, transform: str) -> np.ndarray:
    f = brainstate.transform.jit(TRANSFORMS[transform](lambda x, mask: layer(x, mask=mask)))
    with brainstate.environ.context(fit=True):
        return np.asarray(f(jnp.asarray(np.where(mask, x, np.nan)), jnp.asarray(mask)))


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("masked", [True, False], ids=["unequal counts", "whole"])
@every_transform
def test_running_statistics_are_those_of_the_whole(transform: str, masked: bool, groups: str) -> None:
    """Also where groups of devices are normalized apart: there is one set of running statistics, for all of them."""
    x, mask = data(masked)
    with float64():
        layer = BatchNorm(CHANNELS, axis_name="device", axis_index_groups=GROUPS[groups], momentum=0.75)
        y = train(layer, x, mask, transform)
    count, mean, var = moments(x, mask, (0, 1))
    want = np.zeros_like(x)
    for group in np.unique(group_of(GROUPS[groups])):
        rows = group_of(GROUPS[groups]) == group
        _, centre, spread = moments(x[rows], mask[rows], (0, 1))
        want[rows] = np.where(mask[rows], (x[rows] - centre) / np.sqrt(spread + 1e-5), 0)
    np.testing.assert_allclose(y, want, rtol=1e-11, atol=1e-11)
    for state, found, start in ((layer.running_mean, mean, 0.0), (layer.running_var, var, 1.0)):
        wanted = np.where(count > 0, 0.75 * start + 0.25 * found, start)
        assert state.value.shape == (CHANNELS,)
        np.testing.assert_allclose(state.value, wanted, rtol=1e-11, atol=1e-11)
        shards = getattr(state.value, "addressable_shards", [])
        for shard in shards:
            np.testing.assert_array_equal(shard.data, shards[0].data)


@every_transform
def test_evaluation(transform: str) -> None:
    """Each device by itself: the same as the whole, in a bound axis and without any."""
    x, mask = data(True)
    with float64():
        layer = BatchNorm(CHANNELS, axis_name="device", momentum=0.0)
        train(layer, x, mask, transform)
        mean, var = np.asarray(layer.running_mean.value), np.asarray(layer.running_var.value)
        with brainstate.environ.context(fit=False):
            mapped = TRANSFORMS[transform](layer)(jnp.asarray(x))
            whole = layer(x)
    for y in (mapped, whole):
        np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mesh_axis", ["batch", "channels"])
def test_sharded_arrays_under_jit(mesh_axis: str) -> None:
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    layer = BatchNorm(8, momentum=0.5)
    spec = P("device") if mesh_axis == "batch" else P(None, "device")
    sharded = jax.device_put(x, NamedSharding(mesh_of(), spec))
    with brainstate.environ.context(fit=True):
        y = brainstate.transform.jit(layer)(sharded)
    wide = x.astype(float)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.value, 0.5 * wide.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.value, 0.5 + 0.5 * wide.var(0), rtol=1e-5, atol=1e-6)
