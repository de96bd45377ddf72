"""Law L4: what is exchanged. Collectives are counted and measured in the program that XLA compiled."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from braindnorm import functional
from tests.laws.devices import collectives, mesh_of

BATCH, CHANNELS = 16, 12
NORMS: dict[str, tuple[Callable[..., Any], int, int]] = {
    # the function, the all-reduces of a forward pass, and the statistics of a batch
    "LayerNorm": (functional.layer_norm, 2, BATCH),
    "RMSNorm": (functional.rms_norm, 1, BATCH),
    "GroupNorm": (lambda x, **options: functional.group_norm(x, num_groups=4, **options), 2, 4 * BATCH),
    # here with a channel for each trial
    "BatchNorm": (
        lambda x, reduction_axes, **options: functional.batch_norm(x, feature_axis=0, **options)[0],
        2,
        BATCH,
    ),
}


def forward(norm: Callable[..., Any], size: int, masked: bool, check_vma: bool, **options: Any) -> Callable[..., Any]:
    """Normalize (batch, time, channels) with time on `size` devices."""

    def local(x: jax.Array) -> jax.Array:
        mask = x > -1 if masked else None
        return norm(x, reduction_axes=(-2, -1), axis_name="device", mask=mask, **options)

    spec = P(None, "device")
    return brainstate.transform.shard_map(local, mesh_of(size), spec, spec, check_vma=check_vma)


def both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    """Forward and backward, with a cotangent that depends on the output as that of a loss does, but no loss to sum."""

    def call(x: jax.Array) -> Any:
        y, pull = jax.vjp(f, x)
        return y, pull(jnp.sin(y))

    return call


X = np.random.default_rng(0).normal(size=(BATCH, 8, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("kind", NORMS)
def test_number_and_size(kind: str, masked: bool, check_vma: bool) -> None:
    """Two numbers a statistic in each all-reduce, and one all-reduce more in the backward pass."""
    norm, passes, statistics = NORMS[kind]
    f = forward(norm, 8, masked, check_vma)
    message = 2 * statistics * X.itemsize
    assert collectives(f, X) == [message] * passes
    # checked, JAX knows that no gradient flows into the count of an RMSNorm
    backward = message // 2 if kind == "RMSNorm" and check_vma else message
    assert collectives(both_ways(f), X) == [message] * passes + [backward]


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("kind", NORMS)
def test_groups_of_devices(kind: str, check_vma: bool) -> None:
    """As many collectives as without groups; each group of devices has a row of its own in them."""
    norm, passes, statistics = NORMS[kind]
    f = forward(norm, 8, True, check_vma, axis_index_groups=[[0, 3], [1, 2, 4], [5, 6, 7]])
    message = 3 * 2 * statistics * X.itemsize
    assert collectives(f, X) == [message] * passes
    assert collectives(both_ways(f), X) == [message] * (passes + 1)


@pytest.mark.parametrize("kind", NORMS)
def test_nothing_grows_with_the_devices(kind: str) -> None:
    norm, _, _ = NORMS[kind]
    exchanged = [collectives(both_ways(forward(norm, size, True, True)), X) for size in (2, 4, 8)]
    assert exchanged[0] == exchanged[1] == exchanged[2]


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_what_a_batch_norm_keeps_costs_nothing_more(check_vma: bool) -> None:
    """One all-reduce for the counts and means, one for the variances: y and the statistics are made from both."""

    def local(x: jax.Array) -> Any:
        y, found = functional.batch_norm(x, feature_axis=0, axis_name="device", mask=x > -1)
        return y, found.mean, found.var

    spec = P(None, "device")
    f = brainstate.transform.shard_map(local, mesh_of(8), spec, (spec, P(), P()), check_vma=check_vma)
    assert collectives(f, X) == [2 * BATCH * X.itemsize] * 2


@pytest.mark.parametrize("kind", NORMS)
def test_forward_mode(kind: str) -> None:
    """The tangents travel with what they are tangents of."""
    norm, passes, _ = NORMS[kind]
    f = forward(norm, 8, True, True)
    assert len(collectives(lambda x: jax.jvp(f, (x,), (x,)), X)) == passes


def test_without_a_name_nothing_is_exchanged() -> None:
    f = brainstate.transform.shard_map(functional.layer_norm, mesh_of(8), P(None, "device"), P(None, "device"))
    assert collectives(both_ways(f), X) == []
