"""Law L5: vmap(layer)(x) equals the layer on the batch, where axes are given as negative numbers."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm, RMSNorm
from tests.support.norms import NORMS, draw, randomize

CASES: dict[str, Any] = {
    "LayerNorm": lambda: LayerNorm(6),
    "LayerNorm over two axes": lambda: LayerNorm((4, 6), reduction_axes=(-2, -1), feature_axes=(-2, -1)),
    "LayerNorm over time": lambda: LayerNorm((4, 6), reduction_axes=-2),
    "RMSNorm": lambda: RMSNorm(6),
    "RMSNorm over two axes": lambda: RMSNorm((4, 6), reduction_axes=(-2, -1)),
    "GroupNorm": lambda: GroupNorm(6, num_groups=3, reduction_axes=-1),
    "GroupNorm over space": lambda: GroupNorm((4, 6), num_groups=3, reduction_axes=(-2, -1)),
    "GroupNorm, channels first": lambda: GroupNorm((4, 6), 0, num_groups=2, reduction_axes=-1),
}
VMAPS = {
    "jax.vmap": jax.vmap,
    "brainstate.transform.vmap": brainstate.transform.vmap,
    "vmap of jit": lambda f: jax.vmap(jax.jit(f)),
    "vmap of vmap": lambda f: jax.vmap(lambda x: jax.vmap(f)(x[None])[0]),
}


@pytest.mark.parametrize("vmap", VMAPS)
@pytest.mark.parametrize("case", CASES)
def test_vmap_equals_the_batch(case: str, vmap: str) -> None:
    layer = randomize(CASES[case]())
    x = draw(5, 4, 6, seed=1, loc=2.0)
    np.testing.assert_allclose(VMAPS[vmap](layer)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_vmap_of_masks_and_units(case: str) -> None:
    layer = randomize(CASES[case]())
    layer.unit = u.mV
    mask = np.random.default_rng(2).random((5, 4, 6)) < 0.6
    x = jnp.asarray(np.where(mask, draw(5, 4, 6, seed=1, loc=2.0), np.nan)) * u.mV
    y = jax.vmap(lambda x, mask: layer(x, mask=mask))(x, mask)
    np.testing.assert_allclose(y / u.mV, layer(x, mask=mask) / u.mV, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_vmap_over_another_axis(case: str) -> None:
    layer = randomize(CASES[case]())
    x = draw(4, 5, 6, seed=1)
    y = jax.vmap(layer, in_axes=1, out_axes=1)(x)
    np.testing.assert_allclose(y, jnp.moveaxis(layer(np.moveaxis(x, 1, 0)), 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_vmap_over_parameters(kind: str) -> None:
    """An ensemble: every member has its own scale."""
    x, scales = draw(5, 6, seed=1), draw(3, 6, seed=2)
    norm = NORMS[kind].function
    together = jax.vmap(lambda scale: norm(x, scale=scale))(scales)
    np.testing.assert_allclose(together, jnp.stack([norm(x, scale=scale) for scale in scales]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_vmap_over_masks_alone(kind: str) -> None:
    x, masks = draw(5, 6, seed=1), np.random.default_rng(2).random((3, 5, 6)) < 0.6
    norm = NORMS[kind].function
    together = jax.vmap(lambda mask: norm(x, mask=mask))(masks)
    np.testing.assert_allclose(together, jnp.stack([norm(x, mask=mask) for mask in masks]), rtol=1e-5, atol=1e-6)


def test_brainstate_vmap_over_the_states_of_an_ensemble() -> None:
    """brainstate's own way to give every member its parameters."""
    layers = randomize(LayerNorm(6)), randomize(LayerNorm(6), seed=1)
    graph = brainstate.graph.treefy_split(layers[0])[0]
    states = jax.tree.map(lambda *v: jnp.stack(v), *(brainstate.graph.treefy_split(layer)[1] for layer in layers))
    x = draw(5, 6, seed=1)
    together = jax.vmap(lambda state: brainstate.graph.treefy_merge(graph, state)(x))(states)
    np.testing.assert_allclose(together, jnp.stack([layer(x) for layer in layers]), rtol=1e-5, atol=1e-6)
