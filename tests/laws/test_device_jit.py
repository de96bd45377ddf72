"""Law L4: under jit with sharded arrays there is no axis to name, and nothing to declare."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from braindnorm import functional
from tests.laws.devices import Truth, float64, number_cells, truth, worst_error

BATCH, TIME, CHANNELS = 4, 8, 16
SHAPE = (BATCH, TIME, CHANNELS)
SPECS = {
    "features": P("row", None, "column"),
    "time": P(None, "column"),
    "all features": P(None, None, ("row", "column")),
}
# the function, whether it centres, and the number of groups of channels
NORMS: dict[str, tuple[Callable[..., Any], bool, int]] = {
    "LayerNorm": (functional.layer_norm, True, 1),
    "RMSNorm": (functional.rms_norm, False, 1),
    "GroupNorm inside": (lambda x, **options: functional.group_norm(x, 8, reduction_axes=(), **options), True, 8),
    "GroupNorm straddling": (lambda x, **options: functional.group_norm(x, 2, reduction_axes=(), **options), True, 2),
}


def mesh(axis_type: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("row", "column"), axis_types=(axis_type,) * 2)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("kind", NORMS)
def test_sharded_arrays(kind: str, masked: bool, spec: str, axis_type: AxisType) -> None:
    norm, centred, num_groups = NORMS[kind]
    rng = np.random.default_rng(5)
    x, tangent, cotangent = rng.normal(size=(3, *SHAPE))
    valid = rng.random(SHAPE) < 0.6 if masked else np.ones(SHAPE, bool)
    parameters = {"scale": rng.normal(size=CHANNELS)}
    if centred:
        parameters["bias"] = rng.normal(size=CHANNELS)

    with float64(), jax.set_mesh(devices := mesh(axis_type)):
        shard = lambda v, spec: jax.device_put(v, NamedSharding(devices, spec))  # noqa: E731
        sharded = [shard(v, SPECS[spec]) for v in (x, tangent, cotangent)]
        mask = shard(valid, SPECS[spec]) if masked else None
        last = SPECS[spec][2] if len(SPECS[spec]) > 2 else None
        learned = {key: shard(v, P(last)) for key, v in parameters.items()}

        @jax.jit
        def call(x: Any, learned: Any, tangent: Any, cotangent: Any, mask: Any) -> Any:
            y, pull = jax.vjp(lambda x, learned: norm(x, mask=mask, **learned), x, learned)
            gx, pulled = pull(cotangent)
            moved = jax.jvp(lambda x: norm(x, mask=mask, **learned), (x,), (tangent,))[1]
            return Truth(y, moved, {"x": gx, **pulled})

        got = call(sharded[0], learned, *sharded[1:], mask)
        for part in (got.y, got.tangent, got.pulled["x"]):
            assert part.sharding.is_equivalent_to(sharded[0].sharding, 3)
        got = jax.tree.map(np.asarray, got)

    position = np.arange(BATCH * TIME).reshape(BATCH, TIME, 1)
    cell = number_cells(position, np.arange(CHANNELS) // (CHANNELS // num_groups))
    want = truth(x, cell, valid, parameters, centred=centred, tangent=tangent, cotangent=cotangent)
    assert worst_error(got, want) < 1e-11


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_groups_and_space_reduced_under_vmap(axis_type: AxisType) -> None:
    """The (batch,) axis mapped away, the channels and the space sharded, the groups straddling."""
    x = np.random.default_rng(1).normal(size=SHAPE)
    with float64(), jax.set_mesh(devices := mesh(axis_type)):
        sharded = jax.device_put(x, NamedSharding(devices, P(None, "row", "column")))
        norm = jax.vmap(lambda x: functional.group_norm(x, 2, reduction_axes=-2))
        got = np.asarray(jax.jit(norm)(sharded))
    split = x.reshape(BATCH, TIME, 2, 8)
    centred = split - split.mean((1, 3), keepdims=True)
    want = centred / np.sqrt(split.var((1, 3), keepdims=True) + 1e-6)
    assert np.abs(got - want.reshape(SHAPE)).max() < 1e-11


@pytest.mark.parametrize("shape", [SHAPE, (BATCH, 1, 1), (1, 1, SHAPE[-1])], ids=["element", "trial", "feature"])
def test_a_mask_that_is_on_every_device(shape: tuple[int, ...]) -> None:
    """Beside an array whose type says how it is sharded, a mask need not be sharded alike."""
    rng = np.random.default_rng(0)
    x, mask = rng.normal(-65, 5, SHAPE), rng.random(shape) < 0.7
    every = np.ma.array(x, mask=~np.broadcast_to(mask, SHAPE))
    want = (every - every.mean(-1, keepdims=True)) / np.sqrt(every.var(-1, keepdims=True) + 1e-6)
    with jax.set_mesh(devices := mesh(AxisType.Explicit)):
        sharded = jax.device_put(x.astype(np.float32), NamedSharding(devices, P(None, None, "column")))
        got = jax.jit(lambda x, mask: functional.layer_norm(x, mask=mask))(sharded, jnp.asarray(mask))
    np.testing.assert_allclose(got, want.filled(0), atol=1e-3)


def test_without_jit() -> None:
    with jax.set_mesh(devices := mesh(AxisType.Explicit)):
        x = jax.device_put(np.ones(SHAPE, np.float32), NamedSharding(devices, P(None, None, "column")))
        y = functional.group_norm(x, 2)
        assert y.sharding.is_equivalent_to(x.sharding, 3)
        assert jnp.all(y == 0)
