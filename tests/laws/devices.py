"""What the tests of law L4 share: the unsharded truth in numpy, and the transforms that bind a mapped axis.

The truth knows nothing of axes, devices or groups of devices. Each element of the whole array carries the number of the
statistic that it belongs to, and everything else is sums over equal numbers.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import brainstate
import jax
import numpy as np
from jax.sharding import PartitionSpec as P

DEVICES = 8
# An instruction of a compiled program, with one shape or, where XLA joined several, a tuple of them.
COLLECTIVE = re.compile(r"= (.*?) (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")
SHAPE = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")
GROUPS = {
    "no groups": None,
    "even groups": [[0, 3, 4, 6], [1, 2, 5, 7]],
    "uneven groups": [[5], [0, 1, 7, 2], [3, 4, 6]],
}


@contextmanager
def float64() -> Iterator[None]:
    with brainstate.environ.context(precision=64):
        yield


class Truth(NamedTuple):
    """The normalized array, its derivative along a tangent, and what a cotangent pulls back to."""

    y: np.ndarray
    tangent: np.ndarray
    pulled: dict[str, np.ndarray]


def truth(
    x: np.ndarray,
    cell: np.ndarray,
    valid: np.ndarray,
    parameters: dict[str, np.ndarray],
    *,
    centred: bool,
    tangent: np.ndarray,
    cotangent: np.ndarray,
    epsilon: float = 1e-6,
) -> Truth:
    """Normalize `x` over the elements of equal `cell`; differentiate by hand, in `x` and in the parameters."""
    cell = np.broadcast_to(cell, x.shape)
    valid = np.broadcast_to(valid, x.shape)

    def mean(v: np.ndarray) -> np.ndarray:
        total = np.bincount(cell.ravel(), np.where(valid, v, 0).ravel())
        count = np.bincount(cell.ravel(), valid.ravel())
        return (total / np.maximum(count, 1))[cell]

    def pull(v: np.ndarray, parameter: np.ndarray) -> np.ndarray:
        """Sum over the axes along which the parameter was broadcast."""
        v = np.where(valid, v, 0)
        axes = tuple(range(v.ndim - parameter.ndim))
        v = v.sum(axes)
        return v.sum(tuple(i for i, n in enumerate(parameter.shape) if n == 1), keepdims=True)

    shift = mean(x) if centred else 0
    deviation = x - shift
    rstd = 1 / np.sqrt(mean(deviation**2) + epsilon)
    z = np.where(valid, deviation * rstd, 0)
    scale = parameters.get("scale", np.ones(1))
    y = np.where(valid, z * scale + parameters.get("bias", np.zeros(1)), 0)

    moved = tangent - mean(tangent) if centred else tangent
    dz = rstd * (moved - z * mean(z * moved))
    gz = cotangent * scale
    gx = rstd * (gz - z * mean(z * gz) - (mean(gz) if centred else 0))
    pulled = {"x": np.where(valid, gx, 0)}
    if "scale" in parameters:
        pulled["scale"] = pull(cotangent * z, parameters["scale"])
    if "bias" in parameters:
        pulled["bias"] = pull(cotangent, parameters["bias"])
    return Truth(y, np.where(valid, dz * scale, 0), pulled)


def number_cells(*labels: np.ndarray) -> np.ndarray:
    """Give every element one number for its combination of labels."""
    labels = np.broadcast_arrays(*labels)
    _, numbers = np.unique(np.stack([label.ravel() for label in labels]), axis=1, return_inverse=True)
    return numbers.reshape(labels[0].shape)


def group_of(groups: Any, size: int = DEVICES) -> np.ndarray:
    """Return for each device the number of its group."""
    if groups is None:
        return np.zeros(size, int)
    return np.array([[index in group for group in groups].index(True) for index in range(size)])


def mesh_of(size: int = DEVICES, name: str = "device") -> jax.sharding.Mesh:
    return jax.make_mesh((size,), (name,), devices=jax.devices()[:size])


def bind_shard_map(check_vma: bool) -> Callable[..., Any]:
    def bind(f: Callable[..., Any], axis_name: str = "device", size: int = DEVICES) -> Callable[..., Any]:
        spec = P(axis_name)
        mesh = mesh_of(size, axis_name)
        return brainstate.transform.shard_map(f, mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)

    return bind


def bind_with(transform: Callable[..., Any]) -> Callable[..., Any]:
    def bind(f: Callable[..., Any], axis_name: str = "device", size: int = DEVICES) -> Callable[..., Any]:
        return transform(f, axis_name=axis_name, axis_size=size)

    return bind


# Each maps f over the leading axis of its arguments, one entry a device. Inside vmap and pmap that axis is gone, inside
# shard_map it has length 1: axes that count from the right mean the same in all.
TRANSFORMS = {
    "vmap": bind_with(brainstate.transform.vmap),
    "vmap2": bind_with(brainstate.transform.vmap2),
    "pmap2": bind_with(brainstate.transform.pmap2),
    "shard_map": bind_shard_map(check_vma=True),
    "shard_map unchecked": bind_shard_map(check_vma=False),
}


def parameters_of(layer: brainstate.nn.Module) -> brainstate.ParamState:
    """Return the one state of a norm, which holds its scale and bias."""
    (state,) = layer.states().values()
    return state


def values_and_derivatives(
    f: Callable[[jax.Array], jax.Array], weight: Any, x: Any, tangent: Any, cotangent: Any
) -> Truth:
    """Return what `truth` returns, from one jitted call that differentiates through states as brainstate does."""

    @brainstate.transform.jit
    def call(x: Any, tangent: Any, cotangent: Any) -> Any:
        y, pull = brainstate.transform.vjp(f, x, grad_states={"weight": weight}, argnums=0)
        states, gx = pull(cotangent)
        _, moved = brainstate.transform.jvp(f, (x,), (tangent,))
        return y, moved, {"x": gx, **states["weight"]}

    return Truth(*jax.tree.map(np.asarray, call(x, tangent, cotangent)))


def worst_error(got: Truth, want: Truth) -> float:
    """Return the largest absolute difference, the shapes equal and nothing NaN."""
    errors = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))) if a.shape == b.shape else np.inf, got, want)
    return max(float("inf") if np.isnan(error) else error for error in jax.tree.leaves(errors))


def collectives(f: Callable[..., Any], *arguments: Any) -> list[int]:
    """Return the bytes that each collective of the compiled program exchanges."""
    program = jax.jit(f).lower(*arguments).compile().as_text()
    return [sum(map(_bytes, SHAPE.findall(shapes))) for shapes in COLLECTIVE.findall(program)]


def _bytes(shape: tuple[str, str]) -> int:
    bits, sizes = shape
    return int(bits) // 8 * int(np.prod([int(n) for n in sizes.split(",") if n], dtype=int))
