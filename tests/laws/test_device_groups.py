"""Law L4: groups of channels inside one device, and groups that straddle devices."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from braindnorm import GroupNorm
from braindnorm.errors import OptionError
from tests.laws.devices import (
    float64,
    number_cells,
    parameters_of,
    truth,
    values_and_derivatives,
    worst_error,
)

BATCH, SPACE, CHANNELS = 4, 6, 24
SHAPE = (BATCH, SPACE, CHANNELS)


def mesh_of(**axes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), devices=jax.devices()[: np.prod(list(axes.values()))])


def check(layer: GroupNorm, num_groups: int, mesh: jax.sharding.Mesh, spec: P, check_vma: bool, masked: bool) -> None:
    """Compare a GroupNorm of (batch, space, channels), sharded by `spec`, with the truth."""
    rng = np.random.default_rng(8)
    x, tangent, cotangent = rng.normal(size=(3, *SHAPE))
    valid = rng.random(SHAPE) < 0.5 if masked else np.ones(SHAPE, bool)
    x = np.where(valid, 3 * x - 65, 0)
    parameters = dict(zip(("scale", "bias"), rng.normal(size=(2, CHANNELS)), strict=True))
    layer.weight.value = jax.tree.map(jnp.asarray, parameters)
    weight_spec = {layer.weight: P(spec[2] if len(spec) > 2 else None)}
    mapped = brainstate.transform.shard_map(
        lambda x, mask: layer(x, mask=mask), mesh, (spec, spec), spec, state_in_specs=weight_spec, check_vma=check_vma
    )
    got = values_and_derivatives(lambda x: mapped(x, jnp.asarray(valid)), layer.weight, x, tangent, cotangent)
    cell = number_cells(np.arange(BATCH)[:, None, None], np.arange(CHANNELS) // (CHANNELS // num_groups))
    want = truth(x, cell, valid, parameters, centred=True, tangent=tangent, cotangent=cotangent)
    assert worst_error(got, want) < 1e-11


CHANNEL_SHARDED: dict[str, tuple[int, int, Any]] = {
    # num_groups, devices, and the options: 24 channels
    "whole groups inside": (8, 4, {}),
    "one group inside": (4, 4, {}),
    "two devices a group": (4, 8, {"axis_name": "model", "axis_index_groups": [[0, 1], [2, 3], [4, 5], [6, 7]]}),
    "four devices a group": (2, 8, {"axis_name": "model", "axis_index_groups": [[0, 1, 2, 3], [4, 5, 6, 7]]}),
    "one group over all": (1, 8, {"axis_name": "model"}),
    "whole groups inside, said so": (8, 4, {"axis_name": "model", "axis_index_groups": [[0], [1], [2], [3]]}),
}


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("case", CHANNEL_SHARDED)
def test_channels_and_parameters_are_sharded(case: str, check_vma: bool) -> None:
    num_groups, size, options = CHANNEL_SHARDED[case]
    with float64():
        layer = GroupNorm(CHANNELS, num_groups=num_groups, **options)
        check(layer, num_groups, mesh_of(model=size), P(None, None, "model"), check_vma, masked=True)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
def test_space_is_sharded(masked: bool) -> None:
    with float64():
        layer = GroupNorm(CHANNELS, num_groups=4, axis_name="space")
        check(layer, 4, mesh_of(space=6), P(None, "space"), True, masked)


def test_batch_is_sharded() -> None:
    with float64():
        check(GroupNorm(CHANNELS, num_groups=4), 4, mesh_of(batch=4), P("batch"), True, masked=True)


SPACE_AND_CHANNELS: dict[str, tuple[int, Any, Any]] = {
    # indices of a tuple of names count like those of an array: the last name varies fastest
    "groups inside": (4, "space", [[0, 1]]),
    "groups straddle": (2, ("space", "model"), [[0, 1, 4, 5], [2, 3, 6, 7]]),
    "one group": (1, ("space", "model"), None),
}


@pytest.mark.parametrize("case", SPACE_AND_CHANNELS)
def test_space_and_channels_are_sharded(case: str) -> None:
    num_groups, axis_name, groups = SPACE_AND_CHANNELS[case]
    with float64():
        layer = GroupNorm(CHANNELS, num_groups=num_groups, axis_name=axis_name, axis_index_groups=groups)
        check(layer, num_groups, mesh_of(space=2, model=4), P(None, "space", "model"), True, masked=True)


def refused(size: int, **options: Any) -> str:
    """Return how a GroupNorm with 24 channels over `size` devices is refused."""
    layer = GroupNorm(CHANNELS, **options)
    spec = P(None, None, "model")
    mapped = brainstate.transform.shard_map(
        layer, mesh_of(model=size), spec, spec, state_in_specs={layer.weight: P("model")}
    )
    with pytest.raises(OptionError) as caught:
        mapped(jnp.ones(SHAPE))
    return str(caught.value)


def test_groups_of_devices_must_be_given() -> None:
    message = refused(8, num_groups=4, axis_name="model")
    assert "3 of 24 channels are here, groups have 6" in message
    assert "axis_index_groups=[[0, 1], [2, 3], [4, 5], [6, 7]]" in message


def test_groups_inside_are_not_mixed() -> None:
    message = refused(4, num_groups=8, axis_name="model")
    assert "6 of 24 channels are here, groups have 3" in message
    assert "mix different groups" in message
    assert "axis_name=None" in message


def test_a_straddling_group_needs_a_name() -> None:
    message = refused(8, num_groups=2)
    assert "3 of 24 channels are here, but groups have 12" in message
    assert "axis_name" in message
    assert "axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]]" in message
    assert "axis_index_groups" not in refused(8, num_groups=1)


def test_parts_of_groups_must_be_equal() -> None:
    message = refused(8, num_groups=12, axis_name="model")
    assert "3 of 24 channels are here, and groups have 2" in message
    assert "whole groups or an equal part of one" in message


def test_parameters_stay_one_state() -> None:
    layer = GroupNorm(CHANNELS, num_groups=4)
    mapped = brainstate.transform.shard_map(
        layer, mesh_of(model=4), P(None, "model"), P(None, "model"), state_in_specs=P("model")
    )
    mapped(jnp.ones((2, CHANNELS)))
    assert parameters_of(layer).value["scale"].shape == (CHANNELS,)
