"""Law L4, the matrix: every norm, mask, grouping of devices and transform, in values and in derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from tests.laws.devices import (
    DEVICES,
    GROUPS,
    TRANSFORMS,
    float64,
    group_of,
    number_cells,
    parameters_of,
    truth,
    values_and_derivatives,
    worst_error,
)

BATCH, CHANNELS = 3, 6
LAYERS: dict[str, Any] = {
    "LayerNorm": LayerNorm,
    "RMSNorm": RMSNorm,
    "GroupNorm": lambda size, **options: GroupNorm(size, num_groups=2, reduction_axes=(), **options),
}
CHANNEL_GROUP = {"LayerNorm": np.zeros(6, int), "RMSNorm": np.zeros(6, int), "GroupNorm": np.arange(6) // 3}


def mask_of(kind: str, rng: np.random.Generator) -> np.ndarray | None:
    if kind == "no mask":
        return None
    mask = rng.random((DEVICES, BATCH, CHANNELS)) < 0.6
    if kind == "empty device":
        mask[[2, 5]] = False  # 5 is alone in its group, where groups are uneven
    else:
        counts = np.array([6, 1, 4, 0, 2, 5, 3, 6])
        mask = np.broadcast_to(np.arange(CHANNELS) < counts[:, None, None], mask.shape).copy()
    return mask


def mapped(layer: Any, mask: np.ndarray | None, transform: str) -> Callable[[jax.Array], jax.Array]:
    """Map the layer over the devices, as a function of x alone."""
    bind = TRANSFORMS[transform]
    if mask is None:
        return bind(layer)
    with_mask = bind(lambda x, mask: layer(x, mask=mask))
    return lambda x: with_mask(x, jnp.asarray(mask))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("masked", ["empty device", "ragged mask", "no mask"])
@pytest.mark.parametrize("kind", LAYERS)
def test_sharded_equals_whole(kind: str, masked: str, groups: str, transform: str) -> None:
    rng = np.random.default_rng(3)
    x, tangent, cotangent = rng.normal(size=(3, DEVICES, BATCH, CHANNELS))
    mask = mask_of(masked, rng)
    x = 3 * x - 65 if mask is None else np.where(mask, 3 * x - 65, np.nan)
    scale, bias = rng.normal(size=(2, CHANNELS))
    parameters = {"scale": scale} if kind == "RMSNorm" else {"scale": scale, "bias": bias}
    with float64():
        layer = LAYERS[kind](CHANNELS, axis_name="device", axis_index_groups=GROUPS[groups])
        weight = parameters_of(layer)
        weight.value = jax.tree.map(jnp.asarray, parameters)
        got = values_and_derivatives(mapped(layer, mask, transform), weight, x, tangent, cotangent)
    cell = number_cells(group_of(GROUPS[groups])[:, None, None], np.arange(BATCH)[:, None], CHANNEL_GROUP[kind])
    valid = np.ones(x.shape, bool) if mask is None else mask
    options = {"centred": kind != "RMSNorm", "tangent": tangent, "cotangent": cotangent}
    error = worst_error(got, truth(np.where(valid, x, 0), cell, valid, parameters, **options))
    print(f"error {error:.1e}")  # pytest -rP shows it
    assert error < 1e-11
