"""Law L4 inside other transforms, with units, with sharded axes of every kind, and in networks."""

from collections.abc import Callable
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from braindnorm import GroupNorm, LayerNorm, RMSNorm, functional
from tests.laws.devices import (
    DEVICES,
    TRANSFORMS,
    float64,
    mesh_of,
    number_cells,
    truth,
    values_and_derivatives,
    worst_error,
)

transform = brainstate.transform
TIME, CHANNELS = 5, 6
SHAPE = (DEVICES, TIME, CHANNELS)

# How a step is called, inside the mapped function: x is (time, channels) there, or (1, time, channels) in a shard.
INSIDE: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "jit": transform.jit,
    "checkpoint": transform.checkpoint,
    "cond": lambda f: lambda x: transform.cond(jnp.sum(x) < 1e9, f, jnp.zeros_like, x),
    "for_loop": lambda f: lambda x: jnp.moveaxis(transform.for_loop(f, jnp.moveaxis(x, -2, 0)), 0, -2),
    "scan": lambda f: (
        lambda x: jnp.moveaxis(transform.scan(lambda carry, x: (carry, f(x)), 0.0, jnp.moveaxis(x, -2, 0))[1], 0, -2)
    ),
    "an inner vmap": lambda f: transform.vmap(f, in_axes=-2, out_axes=-2),
    "an inner vmap2": lambda f: transform.vmap2(f, in_axes=-2, out_axes=-2),
}


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("inside", INSIDE)
def test_inside(inside: str, bind: Callable[..., Any]) -> None:
    rng = np.random.default_rng(11)
    x, tangent, cotangent = rng.normal(size=(3, *SHAPE))
    parameters = dict(zip(("scale", "bias"), rng.normal(size=(2, CHANNELS)), strict=True))
    with float64():
        layer = LayerNorm(CHANNELS, axis_name="device", axis_index_groups=[[0, 1, 2], [3, 4, 5, 6, 7]])
        layer.weight.value = jax.tree.map(jnp.asarray, parameters)
        got = values_and_derivatives(bind(INSIDE[inside](layer)), layer.weight, x, tangent, cotangent)
    cell = number_cells((np.arange(DEVICES) > 2)[:, None, None], np.arange(TIME)[:, None], np.zeros(CHANNELS))
    valid = np.ones(SHAPE, bool)
    want = truth(x, cell, valid, parameters, centred=True, tangent=tangent, cotangent=cotangent)
    assert worst_error(got, want) < 1e-11


# Which axis of (batch, time, channels) is sharded, and what the statistics run over
SHARDED: dict[str, tuple[P, Any, str | None]] = {
    "batch": (P("device"), -1, None),
    "time": (P(None, "device"), (-2, -1), "device"),
    "features": (P(None, None, "device"), -1, "device"),
}


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("axis", SHARDED)
def test_every_axis_of_x_with_its_parameters(axis: str, check_vma: bool) -> None:
    spec, reduction_axes, axis_name = SHARDED[axis]
    rng = np.random.default_rng(12)
    x, tangent, cotangent = rng.normal(size=(3, 8, 8, 8))
    valid = np.arange(8) < rng.integers(0, 9, size=(8, 8, 1))
    x = np.where(valid, x, np.nan)
    parameters = dict(zip(("scale", "bias"), rng.normal(size=(2, 8)), strict=True))
    with float64():
        layer = LayerNorm(8, reduction_axes=reduction_axes, axis_name=axis_name)
        layer.weight.value = jax.tree.map(jnp.asarray, parameters)
        states = {layer.weight: P("device" if axis == "features" else None)}
        mapped = transform.shard_map(
            lambda x, mask: layer(x, mask=mask),
            mesh_of(8),
            (spec, spec),
            spec,
            state_in_specs=states,
            check_vma=check_vma,
        )
        got = values_and_derivatives(lambda x: mapped(x, jnp.asarray(valid)), layer.weight, x, tangent, cotangent)
    rows = np.arange(8)[:, None, None] * 8 + (0 if axis == "time" else np.arange(8)[:, None])
    cell = np.broadcast_to(rows, x.shape)
    want = truth(np.where(valid, x, 0), cell, valid, parameters, centred=True, tangent=tangent, cotangent=cotangent)
    assert worst_error(got, want) < 1e-11


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("spec", [P("a"), P(None, "b"), P(("a", "b")), P("a", "b"), P()], ids=str)
def test_two_axis_names(spec: P, check_vma: bool) -> None:
    """Whether both, one or none of the named axes shards x: what is repeated counts as often as what is counted."""
    rng = np.random.default_rng(13)
    x = rng.normal(size=(8, 8, 4))
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    with float64():
        layer = RMSNorm(4, reduction_axes=(0, 1, 2), axis_name=("a", "b"))
        y = jax.jit(transform.shard_map(layer, mesh, spec, spec, check_vma=check_vma))(x)
        assert np.abs(np.asarray(y) - x / np.sqrt(np.mean(x**2) + 1e-6)).max() < 1e-11


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
def test_units(bind: Callable[..., Any]) -> None:
    rng = np.random.default_rng(14)
    x = 3 * rng.normal(size=SHAPE) - 65
    with float64():
        layer = LayerNorm(CHANNELS, axis_name="device", unit=u.mV)
        y = transform.jit(bind(layer))(x / 1000 * u.volt)
        millivolts = np.asarray(y.to_decimal(u.mV))
        mean = bind(lambda x: functional.moments(x, axis_name="device").mean)(x * u.mV)
    centre, var = x.mean((0, 2), keepdims=True), x.var((0, 2), keepdims=True)
    assert np.abs(millivolts - (x - centre) / np.sqrt(var + 1e-6)).max() < 1e-11
    assert np.abs(np.asarray(mean.to_decimal(u.mV)).reshape(DEVICES, TIME) - centre[..., 0]).max() < 1e-11


def test_moments_come_out_replicated() -> None:
    """What every device agrees on may leave a checked shard_map as one copy."""
    x = np.random.default_rng(15).normal(size=(4, 16))
    with float64():
        local = lambda x: tuple(functional.moments(x, axis_name="device"))  # noqa: E731
        count, mean, var = transform.shard_map(local, mesh_of(8), P(None, "device"), P())(x)
    assert np.all(np.asarray(count) == 16)
    assert np.abs(np.asarray(mean) - x.mean(-1)).max() < 1e-14
    assert np.abs(np.asarray(var) - x.var(-1)).max() < 1e-14


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
def test_eight_devices_then_four(bind: Callable[..., Any]) -> None:
    """What brainstate has cached of a function knows nothing of how many devices there were."""
    x = np.random.default_rng(16).normal(size=SHAPE)
    with float64():
        layer = GroupNorm(CHANNELS, num_groups=2, reduction_axes=(), axis_name="device")
        step = transform.jit(layer)
        for size in (8, 4, 8, 2):
            y = np.asarray(bind(step, size=size)(jnp.asarray(x[:size])))
            split = x[:size].reshape(size, TIME, 2, 3)
            mean, var = split.mean((0, 3), keepdims=True), split.var((0, 3), keepdims=True)
            assert np.abs(y - ((split - mean) / np.sqrt(var + 1e-6)).reshape(y.shape)).max() < 1e-11


class Network(brainstate.nn.Module):
    """A recurrent layer, normalized over all devices."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = brainstate.nn.GRUCell(3, CHANNELS)
        self.norm = LayerNorm(CHANNELS, axis_name="device")

    def update(self, x: Any) -> Any:
        return self.norm(self.cell(x))


def normalized(h: np.ndarray) -> np.ndarray:
    return (h - h.mean((0, -1), keepdims=True)) / np.sqrt(h.var((0, -1), keepdims=True) + 1e-6)


def test_states_made_for_every_device() -> None:
    """`vmap_new_states` calls the network while it looks for states, with no axis bound."""
    network = Network()

    @transform.vmap_new_states(axis_name="device", axis_size=DEVICES, state_tag="device")
    def make(x: Any) -> Any:
        brainstate.nn.init_all_states(network)
        return network(x)

    x = jnp.asarray(np.random.default_rng(17).normal(size=(DEVICES, 3)), jnp.float32)
    y = make(x)
    assert network.cell.h.value.shape == (DEVICES, CHANNELS)
    hidden = np.asarray(network.cell.h.value, np.float64)
    assert np.abs(np.asarray(y) - normalized(hidden)).max() < 1e-5
    step = transform.vmap2(
        network, axis_name="device", state_in_axes={0: network.cell.h}, state_out_axes={0: network.cell.h}
    )
    y = step(x)
    assert np.abs(np.asarray(y) - normalized(np.asarray(network.cell.h.value, np.float64))).max() < 1e-5


def test_init_all_states_then_sharded() -> None:
    network = Network()
    brainstate.nn.init_all_states(network, batch_size=DEVICES)
    hidden = {network.cell.h: P("device")}
    step = transform.shard_map(
        network, mesh_of(8), P("device"), P("device"), state_in_specs=hidden, state_out_specs=hidden
    )
    x = np.random.default_rng(18).normal(size=(DEVICES, 3)).astype(np.float32)
    y = step(jnp.asarray(x))
    assert np.abs(np.asarray(y) - normalized(np.asarray(network.cell.h.value, np.float64))).max() < 1e-5
