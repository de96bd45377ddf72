"""Barriers that XLA for CPU needs, or else it keeps x - mean in memory."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from ..units import Shape
from .deferred import TINY, Deferred, Operand, is_constant

Tree = TypeVar("Tree")
# an array, or a zero that is known
Tangent = Any
# of arrays, with all the lanes of ``vmap``
Sizes = tuple[range, ...]


def fence(values: Tree, *, size: int | None = None, unless: Sizes = ()) -> Tree:
    """Put a barrier behind a tree of arrays in a program for a CPU.

    `size` is that of the norm's input, and grows by what ``vmap`` adds to it. There is none for the sizes in `unless`.
    Without a `size` there is always one.
    """
    leaves, tree = jax.tree.flatten(values)
    if not leaves:
        return values
    behind: Tree = jax.tree.unflatten(tree, _fence(*leaves, size=size, unless=unless))
    return behind


def unknown(mask: jax.Array) -> jax.Array:
    """Return a mask that XLA does not know: a constant of the program it would count while it compiles, in seconds.

    A tiny one it may count: that takes no time, and then is no part of the program.
    """
    if is_constant(mask.shape) and mask.size <= TINY:
        return mask
    behind: jax.Array = jax.lax.optimization_barrier(mask)
    return behind


def _free(*values: Operand, **_: object) -> list[Operand]:
    return list(values)


def _on_cpu(*values: Operand, size: int | None, unless: Sizes) -> list[jax.Array]:
    if isinstance(size, int) and any(size in sizes for sizes in unless):
        return list(values)
    return list(jax.lax.optimization_barrier(values))


def _batch(
    values: Sequence[jax.Array], dims: Sequence[int | None], *, size: int | None, **static: object
) -> tuple[list[jax.Array], Sequence[int | None]]:
    lanes = next(v.shape[dim] for v, dim in zip(values, dims, strict=True) if dim is not None)
    return _fence(*values, size=None if size is None else size * lanes, **static), dims


def _differentiate(primitive: Primitive) -> None:
    def jvp(
        values: Sequence[jax.Array], tangents: Sequence[Tangent], **static: object
    ) -> tuple[list[jax.Array], list[Tangent]]:
        return _fence(*values, **static), _of_some(tangents, static)

    def transpose(cotangents: Sequence[Tangent], *_: object, **static: object) -> list[Tangent]:
        return _of_some(cotangents, static)

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def _of_some(values: Sequence[Tangent], static: dict[str, object]) -> list[Tangent]:
    """Put a barrier behind those that are not known to be 0."""
    at = [i for i, v in enumerate(values) if not isinstance(v, ad.Zero)]
    results = list(values)
    for i, v in zip(at, _fence(*[values[i] for i in at], **static) if at else (), strict=True):
        results[i] = v
    return results


def _shapes(*shapes: Shape, **_: object) -> list[Shape]:
    return list(shapes)


_fence = Deferred(
    "fence",
    _free,
    _on_cpu,
    several=True,
    dtypes_kept=True,
    shape=_shapes,
    batch=_batch,
    differentiate=_differentiate,
)
