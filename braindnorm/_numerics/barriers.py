"""Barriers that XLA for CPU needs, or else it keeps x - mean in memory."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from .deferred import Deferred

# above this many elements XLA for CPU computes a norm tile by tile, if nothing stands in the way
LARGE = 2**21


def fence(values: Any, *, tiles: int = 0) -> Any:
    """Put a barrier behind a tree of arrays in a program for a CPU.

    `tiles` is the size of an input that may be computed tile by tile: there is no barrier then if it is large, with all
    that ``vmap`` adds to it. Where it is 0 there always is.
    """
    leaves, tree = jax.tree.flatten(values)
    return jax.tree.unflatten(tree, _fence(*leaves, tiles=tiles)) if leaves else values


def _free(*values: Any, tiles: int) -> list[Any]:
    return list(values)


def _on_cpu(*values: Any, tiles: int) -> list[Any]:
    if isinstance(tiles, int) and tiles > LARGE:
        return list(values)
    return list(jax.lax.optimization_barrier(values))


def _batch(values: Sequence[Any], dims: Sequence[Any], *, tiles: int) -> Any:
    size = next(v.shape[dim] for v, dim in zip(values, dims, strict=True) if dim is not None)
    return _fence(*values, tiles=tiles * size), dims


def _differentiate(primitive: Primitive) -> None:
    def jvp(values: Sequence[Any], tangents: Sequence[Any], *, tiles: int) -> Any:
        return _fence(*values, tiles=tiles), _of_some(tangents, tiles)

    def transpose(cotangents: Sequence[Any], *_: Any, tiles: int) -> Any:
        return _of_some(cotangents, tiles)

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def _of_some(values: Sequence[Any], tiles: int) -> list[Any]:
    """Put a barrier behind those that are not known to be 0."""
    at = [i for i, v in enumerate(values) if not isinstance(v, ad.Zero)]
    found = list(values)
    for i, v in zip(at, _fence(*[values[i] for i in at], tiles=tiles) if at else (), strict=True):
        found[i] = v
    return found


_fence = Deferred("fence", _free, _on_cpu, batch=_batch, differentiate=_differentiate, several=True)
