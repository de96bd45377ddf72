"""A sum over devices, and over groups of them."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from braindnorm._numerics.collectives import sum_devices, varying
from braindnorm.errors import AxisNameError
from tests.laws.devices import TRANSFORMS, mesh_of

VALUES = np.arange(24.0).reshape(8, 3)


def summed(groups: Any) -> Any:
    return lambda v: sum_devices(v, "device", groups)


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
def test_all(bind: Any) -> None:
    np.testing.assert_array_equal(bind(summed(None))(VALUES), np.broadcast_to(VALUES.sum(0), (8, 3)))


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(
    "groups", [[[0, 7], [1, 2, 3], [5], [4, 6]], np.arange(8).reshape(2, 4), [range(8), []]], ids=str
)
def test_groups(groups: Any, bind: Any) -> None:
    want = np.empty_like(VALUES)
    for group in groups:
        want[list(group)] = VALUES[list(group)].sum(0)
    np.testing.assert_array_equal(bind(summed(groups))(VALUES), want)


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
def test_nan_stays_in_its_group(bind: Any) -> None:
    values = VALUES.copy()
    values[2] = np.nan
    got = np.asarray(bind(summed([[0, 2], [1, 3, 4, 5, 6, 7]]))(values))
    assert np.isnan(got[[0, 2]]).all()
    assert np.isfinite(got[[1, 3, 4, 5, 6, 7]]).all()


def test_the_sum_is_no_constant_of_the_trace() -> None:
    """A traced program that ran on 8 is right on 4, for the length of the axis is not in it."""
    traced = brainstate.transform.jit(summed(None))
    for size in (8, 4):
        got = brainstate.transform.vmap(traced, axis_name="device")(VALUES[:size])
        np.testing.assert_array_equal(got[0], VALUES[:size].sum(0))


def test_where_brainstate_looks_for_states_nothing_is_summed() -> None:
    seen = []

    def make(v: Any) -> Any:
        seen.append(jax.eval_shape(summed(None), v))
        return brainstate.ShortTermState(sum_devices(v, "device", None)).value

    got = brainstate.transform.vmap_new_states(make, axis_name="device", axis_size=8, state_tag="new")(
        jnp.asarray(VALUES)
    )
    np.testing.assert_array_equal(got, np.broadcast_to(VALUES.sum(0), (8, 3)))
    assert {out.shape for out in seen} == {(3,)}


def test_elsewhere_an_unbound_name_is_an_error() -> None:
    with pytest.raises(
        AxisNameError, match=r"^the statistics are summed over axis_name='device', but no such axis is bound here\."
    ):
        summed(None)(jnp.ones(3))


def test_what_all_share_can_become_each_ones_own() -> None:
    """A checked map takes it as an output that is sharded, which it refuses for what it knows to be the same."""
    f = brainstate.transform.shard_map(lambda v: varying(v, "device"), mesh_of(8), P(), P("device"))
    np.testing.assert_array_equal(f(VALUES[:1]), np.broadcast_to(VALUES[:1], (8, 3)))
    assert varying(3.0, "nothing") == 3.0
