"""Law L4: what cannot be summed across devices is refused, by name, with what to write instead."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from braindnorm import GroupNorm, LayerNorm, RMSNorm, functional
from braindnorm.errors import AxisError, AxisNameError, OptionError
from tests.laws.devices import TRANSFORMS, mesh_of

transform = brainstate.transform
X = jnp.ones((8, 3, 6))
LAYERS: dict[str, Any] = {
    "LayerNorm": LayerNorm,
    "RMSNorm": RMSNorm,
    "GroupNorm": lambda size, **options: GroupNorm(size, num_groups=2, **options),
}
UNBOUND: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda f: f,
    "jit": transform.jit,
    "grad": lambda f: transform.grad(lambda x: f(x).sum(), argnums=0),
    "jvp": lambda f: lambda x: transform.jvp(f, (x,), (x,)),
    "for_loop": lambda f: lambda x: transform.for_loop(f, x),
    "scan": lambda f: lambda x: transform.scan(lambda carry, x: (carry, f(x)), 0, x),
    "checkpoint": transform.checkpoint,
    "cond": lambda f: lambda x: transform.cond(True, f, lambda x: x, x),
    "a vmap without a name": transform.vmap,
    "a vmap2 without a name": transform.vmap2,
    **{f"{name} over another axis": lambda f, bind=bind: bind(f, "else") for name, bind in TRANSFORMS.items()},
}


@pytest.mark.parametrize("binder", UNBOUND)
def test_an_axis_that_is_not_bound(binder: str) -> None:
    layer = LayerNorm(6, axis_name="device", name="membrane")
    with pytest.raises(AxisNameError) as caught:
        UNBOUND[binder](layer)(X)
    message = str(caught.value)
    assert message.startswith(
        "LayerNorm 'membrane': the statistics are summed over axis_name='device', but no such axis is bound here."
    )
    assert "vmap(f, axis_name='device')" in message
    assert "shard_map" in message
    assert "axis_name=None" in message


@pytest.mark.parametrize("kind", LAYERS)
def test_every_norm_says_its_name(kind: str) -> None:
    with pytest.raises(
        AxisNameError, match=rf"^{kind}\(in_size=\(6,\)\): the statistics are summed over axis_name='device'"
    ):
        LAYERS[kind](6, axis_name="device")(X[0])


@pytest.mark.parametrize("function", [functional.layer_norm, functional.rms_norm, functional.moments])
def test_every_function_says_its_name(function: Callable[..., Any]) -> None:
    with pytest.raises(
        AxisNameError, match=rf"^{function.__name__}: the statistics are summed over axis_name=\('a', 'b'\)"
    ):
        function(X, axis_name=("a", "b"))


NOT_COVERING = {
    "one missing": [[0, 1, 2], [3, 4, 5, 6]],
    "one twice": [[0, 1, 2, 3], [3, 4, 5, 6, 7]],
    "one too many": [[0, 1, 2, 3], [4, 5, 6, 7, 8]],
    "negative": [[0, 1, 2, 3], [4, 5, 6, -1]],
    "empty": [],
}


@pytest.mark.parametrize("bind", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("groups", NOT_COVERING.values(), ids=NOT_COVERING)
def test_groups_cover_the_axis_once(groups: list[list[int]], bind: Callable[..., Any]) -> None:
    layer = RMSNorm(6, axis_name="device", axis_index_groups=groups)
    with pytest.raises(OptionError) as caught:
        bind(layer)(X)
    message = str(caught.value)
    assert message.startswith(f"RMSNorm(in_size=(6,)): axis_index_groups={groups} must hold each index")
    assert message.endswith("an axis of length 8 exactly once, that is 0 to 7.")


@pytest.mark.parametrize("groups", [[0, 1, 2], 3, "abc", [[0.0, 1.0]], {"a": [1]}, [["0", "1"]]], ids=str)
def test_groups_are_nested_integers(groups: Any) -> None:
    layer = LayerNorm(6, axis_name="device", axis_index_groups=groups)
    with pytest.raises(OptionError) as caught:
        transform.vmap(layer, axis_name="device")(X)
    assert "LayerNorm(in_size=(6,)): axis_index_groups must be a list of lists of integers" in str(caught.value)
    assert str(caught.value).endswith(f"got {groups!r}.")


@pytest.mark.parametrize("map_inside", [transform.vmap, transform.vmap2, jax.vmap])
@pytest.mark.parametrize("axis_name", ["trial", ("device", "trial")], ids=str)
@pytest.mark.parametrize("groups", [None, [[0, 1, 2]]], ids=["all", "grouped"])
def test_a_vmapped_axis_in_a_checked_shard_map(groups: Any, axis_name: Any, map_inside: Callable[..., Any]) -> None:
    if groups is not None and axis_name != "trial":
        groups = [list(range(24))]
    layer = LayerNorm(6, axis_name=axis_name, axis_index_groups=groups)
    inside = map_inside(layer, in_axes=1, out_axes=1, axis_name="trial")
    mapped = transform.shard_map(inside, mesh_of(8), P("device"), P("device"))
    with pytest.raises(AxisNameError) as caught:
        mapped(X)
    message = str(caught.value)
    assert message.startswith(f"LayerNorm(in_size=(6,)): axis_name={axis_name!r} is bound by a vmap inside shard_map")
    assert "check_vma=False" in message
    assert "reduction_axes" in message


def test_what_the_message_says_to_write_works() -> None:
    """The same statistics, unchecked and as an axis of the input."""
    x = jnp.arange(8.0 * 3 * 6).reshape(8, 3, 6) ** 1.5
    named = LayerNorm(6, axis_name=("device", "trial"))
    inside = transform.vmap(named, in_axes=1, out_axes=1, axis_name="trial")
    unchecked = transform.shard_map(inside, mesh_of(8), P("device"), P("device"), check_vma=False)(x)
    reduced = LayerNorm(6, reduction_axes=(-2, -1), axis_name="device")
    checked = transform.shard_map(reduced, mesh_of(8), P("device"), P("device"))(x)
    assert jnp.abs(unchecked - checked).max() < 1e-5


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize(("layer", "write"), [
    (LayerNorm(6, axis_name="devices"), "norm.weight: PartitionSpec('devices')"),
    (RMSNorm((3, 6), axis_name="devices"), "norm.scale: PartitionSpec(None, 'devices')"),
])  # fmt: skip
def test_sharded_features_but_whole_parameters(layer: Any, write: str, check_vma: bool) -> None:
    columns = P(None, None, "devices")
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(AxisError) as raised:
        transform.shard_map(layer, mesh, columns, columns, check_vma=check_vma)(X)
    assert "state_in_specs={" + write + "}" in str(raised.value)
