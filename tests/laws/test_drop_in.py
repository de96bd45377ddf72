"""Law L1: with the arguments of brainstate.nn, its values where those are right; and where not, the right ones."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import GroupNorm, LayerNorm
from tests.support import reference
from tests.support.norms import LAYERS, NORMS, THEIRS, draw, parameters, randomize, weight_of

# kind, in_size, options, shape of the input: what brainstate.nn computes rightly
RIGHT: list[tuple[str, Any, dict[str, Any], tuple[int, ...]]] = [
    ("LayerNorm", (6,), {}, (5, 6)),
    ("LayerNorm", (4, 6), {}, (3, 4, 6)),
    ("LayerNorm", (4, 6), {"reduction_axes": (-2, -1), "feature_axes": (-2, -1)}, (3, 4, 6)),
    ("LayerNorm", (4, 6), {"reduction_axes": -2}, (3, 4, 6)),
    ("LayerNorm", (3, 4, 6), {"reduction_axes": (1, 2)}, (3, 4, 6)),
    ("LayerNorm", (3, 4, 6), {"reduction_axes": [0, -1], "feature_axes": [1]}, (3, 4, 6)),
    ("LayerNorm", (6,), {"use_bias": False}, (5, 6)),
    ("LayerNorm", (6,), {"use_scale": False}, (5, 6)),
    ("LayerNorm", (6,), {"use_scale": False, "use_bias": False}, (5, 6)),
    ("LayerNorm", (6,), {"epsilon": 0.3, "use_fast_variance": False}, (5, 6)),
    ("RMSNorm", (6,), {}, (5, 6)),
    ("RMSNorm", (4, 6), {"reduction_axes": (-2, -1), "feature_axes": 0}, (3, 4, 6)),
    ("RMSNorm", (6,), {"use_scale": False, "epsilon": 0.3}, (5, 6)),
    ("GroupNorm", (6,), {"num_groups": 3}, (5, 6)),
    ("GroupNorm", (6,), {"num_groups": None, "group_size": 2}, (5, 6)),
    ("GroupNorm", (128,), {}, (5, 128)),
    ("GroupNorm", (6,), {"num_groups": 3}, (5, 4, 6)),
    ("GroupNorm", (6,), {"num_groups": 1}, (2, 3, 4, 6)),
    ("GroupNorm", (6,), {"num_groups": 6, "use_bias": False}, (2, 3, 4, 6)),
]
NAMES = [f"{kind} {size} {options}" for kind, size, options, _ in RIGHT]


def pair(kind: str, size: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Build both layers, with the same parameters; theirs without the fast variance, which cancels."""
    ours, theirs = LAYERS[kind](size, **options), THEIRS[kind](size, **{**options, "use_fast_variance": False})
    if weight_of(ours) is not None:
        randomize(ours)
        weight_of(theirs).value = weight_of(ours).value
    return ours, theirs


@pytest.mark.parametrize(("kind", "size", "options", "shape"), RIGHT, ids=NAMES)
def test_values_and_gradients(kind: str, size: Any, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    ours, theirs = pair(kind, size, options)
    x, g = draw(*shape, seed=1, loc=0.5), draw(*shape, seed=2)

    @jax.jit
    def both(x: Any) -> Any:
        pairs = (jax.vjp(layer.update, x) for layer in (ours, theirs))
        return [(y, pull(jnp.asarray(g))[0]) for y, pull in pairs]

    (y, gx), (their_y, their_gx) = both(x)
    assert y.dtype == their_y.dtype
    np.testing.assert_allclose(y, their_y, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(gx, their_gx, rtol=2e-4, atol=5e-6)


@pytest.mark.parametrize("kind", NORMS)
def test_gradients_of_the_parameters(kind: str) -> None:
    options = {"num_groups": 3} if kind == "GroupNorm" else {}
    x, g = draw(5, 6, seed=1), draw(5, 6, seed=2)
    transform = brainstate.transform
    ours, theirs = (
        transform.jit(transform.grad(lambda layer=layer: (layer(x) * g).sum(), weight_of(layer)))()
        for layer in pair(kind, (6,), options)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("swap", [False, True], ids=["theirs loads here", "ours loads there"])
@pytest.mark.parametrize("kind", NORMS)
def test_a_checkpoint_loads(kind: str, swap: bool) -> None:
    """Twice: as arrays by path, and as brainstate's own tree of states."""
    options = {"use_fast_variance": False, **({"num_groups": 3} if kind == "GroupNorm" else {})}
    source, target = THEIRS[kind]((6,), **options), LAYERS[kind]((6,), **options)
    source, target = (target, source) if swap else (source, target)
    x = draw(5, 6, seed=1)
    want = randomize(source, seed=3)(x)
    saved = {path: jax.tree.map(np.asarray, state.value) for path, state in source.states().items()}
    for path, state in target.states().items():
        state.value = jax.tree.map(jnp.asarray, saved.pop(path))
    assert not saved
    np.testing.assert_allclose(target(x), want, rtol=1e-5, atol=1e-6)

    again = type(target)((6,), **options)
    brainstate.graph.update_states(again, brainstate.graph.treefy_states(source))
    np.testing.assert_allclose(again(x), want, rtol=1e-5, atol=1e-6)


# Where brainstate.nn is wrong.


def test_groups_keep_their_own_statistics_with_two_leading_axes() -> None:
    x = draw(2, 3, 6, seed=4) * np.arange(1, 7, dtype=np.float32)
    y = GroupNorm(6, num_groups=3, reduction_axes=-1)(x)
    np.testing.assert_allclose(y, reference.group_norm(x, 3), rtol=1e-5, atol=1e-5)


def test_group_norm_of_a_vector() -> None:
    x = draw(6, seed=4)
    np.testing.assert_allclose(GroupNorm((6,), num_groups=3)(x), reference.group_norm(x, 3), rtol=1e-4, atol=1e-5)


def test_group_norm_follows_the_examples_of_its_documentation() -> None:
    x = draw(3, 4, 5, 6, seed=5)
    y = GroupNorm(x.shape, num_groups=3)(x)
    np.testing.assert_allclose(y, reference.group_norm(x, 3, reduction_axes=(1, 2)), rtol=1e-4, atol=1e-5)
    one = GroupNorm(x.shape, num_groups=1)(x)
    np.testing.assert_allclose(one, LayerNorm(x.shape, reduction_axes=(1, 2, 3))(x), rtol=1e-5, atol=1e-6)
    assert GroupNorm((12,), num_groups=None, group_size=4).num_groups == 3


@pytest.mark.parametrize("shape", [(6, 4, 5), (3, 6, 4, 5)], ids=["unbatched", "batched"])
def test_channels_may_come_first(shape: tuple[int, ...]) -> None:
    x = draw(*shape, seed=6) * np.arange(1, 7, dtype=np.float32)[:, None, None]
    layer = randomize(GroupNorm((6, 4, 5), feature_axis=0, num_groups=3))
    want = reference.group_norm(x, 3, feature_axis=-3, reduction_axes=(-2, -1), **parameters(layer))
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-5)
    last = GroupNorm(6, num_groups=3)
    weight_of(last).value = {key: v.reshape(6) for key, v in weight_of(layer).value.items()}
    moved = np.moveaxis(x, -3, -1) if len(shape) == 4 else np.moveaxis(x, 0, -1)[None]
    np.testing.assert_allclose(np.moveaxis(last(moved), -1, -3).reshape(shape), want, rtol=1e-4, atol=1e-5)


def test_group_size_alone_is_enough_and_counts_take_any_integer_type() -> None:
    assert GroupNorm(6, group_size=2).num_groups == 3
    assert GroupNorm(6, num_groups=np.int64(3)).group_size == 2
    assert GroupNorm(np.int32(6), num_groups=jnp.asarray(2)).group_size == 3


@pytest.mark.parametrize("kind", NORMS)
def test_a_wrong_size_does_not_broadcast(kind: str) -> None:
    with pytest.raises(ValueError, match="must be 6 long"):
        NORMS[kind].layer(6)(draw(6, 1))
