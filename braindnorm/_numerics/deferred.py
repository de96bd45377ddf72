"""Arithmetic that is written for the compiler when a program is lowered.

Only then is it known which axes ``vmap`` has added, and for which platform the program is: a CPU wants other sums and
products than GPU and TPU, which fuse what they are given, and it wants barriers. What JAX has to know of each operation
to differentiate and to map it is registered with the public tables of ``jax.interpreters``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..units import Shape

# arrays to an array, or to several
R = TypeVar("R", jax.Array, list[jax.Array])
# a rule of a table of jax.interpreters, which are not typed
Rule = Callable[..., object]
# an array; a constant of a program, which JAX keeps as an array of numpy; or what stands for an operand in a transpose
Operand = Any
# up to as many elements a program of few kernels is as fast as any, and soonest compiled: plain sums, and no choices
TINY = 2048


class Deferred(Generic[R]):
    """An operation with two forms: `general`, and that `on_cpu`.

    `batch` is the rule of ``vmap``, as the tables want it; `differentiate` registers the derivatives of a primitive.
    The result is of the `shape` that follows from those of the operands, and with `several` each of the results. They
    have the dtype of the first operand, or with `dtypes_kept` each that of its own.
    """

    def __init__(
        self,
        name: str,
        general: Callable[..., R],
        on_cpu: Callable[..., R],
        *,
        batch: Rule,
        differentiate: Callable[[Primitive], None],
        shape: Callable[..., Shape | list[Shape]],
        several: bool = False,
        dtypes_kept: bool = False,
    ) -> None:
        self._general: Callable[..., R] = general
        self._on_cpu: Callable[..., R] = on_cpu
        self._shape = shape
        self._dtypes_kept = dtypes_kept
        self._primitive = Primitive(f"braindnorm_{name}")
        self._primitive.multiple_results = several
        self._primitive.def_impl(general)
        self._primitive.def_abstract_eval(self._abstract)
        differentiate(self._primitive)
        batching.primitive_batchers[self._primitive] = batch
        mlir.register_lowering(self._primitive, mlir.lower_fun(general, multiple_results=several))
        mlir.register_lowering(self._primitive, mlir.lower_fun(on_cpu, multiple_results=several), platform="cpu")

    def __call__(self, *values: jax.Array, **static: object) -> R:
        if any(map(is_explicit, values)):
            return self._general(*values, **static)
        if jax.sharding.get_abstract_mesh().manual_axes:
            # within shard_map a type says along which axes a value varies, in words that depend on the version of JAX
            way: Callable[..., R] = self._on_cpu if jax.default_backend() == "cpu" else self._general
            return way(*values, **static)
        bound: R = self._primitive.bind(*values, **static)
        return bound

    def _abstract(self, *values: jax.core.ShapedArray, **static: object) -> object:
        found = self._shape(*(v.shape for v in values), **static)
        if isinstance(found, list):
            like = values if self._dtypes_kept else values[:1] * len(found)
            return [jax.core.ShapedArray(shape, v.dtype) for shape, v in zip(found, like, strict=True)]
        return jax.core.ShapedArray(found, values[0].dtype)


def no_derivative(primitive: Primitive) -> None:
    """Register nothing: no gradient ever gets to the operation."""


def lanes_first(values: Sequence[Operand], dims: Sequence[int | None]) -> list[jax.Array]:
    """Return the operands of a rule of ``vmap`` with their lanes as the leading axis: one, where all share it."""
    return [v[None] if dim is None else jnp.moveaxis(v, dim, 0) for v, dim in zip(values, dims, strict=True)]


def linear(transpose: Rule) -> Callable[[Primitive], None]:
    """Return what registers an operation that is linear in its one operand."""
    return lambda primitive: ad.deflinear2(primitive, transpose)


def bilinear(left: Rule, right: Rule) -> Callable[[Primitive], None]:
    """Return what registers an operation that is linear in each of two operands, by the transposes in each."""
    return lambda primitive: ad.defbilinear(primitive, left, right)


def same_shape(shape: Shape, **_: object) -> Shape:
    """Return the shape of the operand as that of the result."""
    return shape


def shape_of(v: Operand) -> Shape:
    """Return the shape of what a transpose is given in place of an operand."""
    return tuple(v.aval.shape if ad.is_undefined_primal(v) else v.shape)


def is_explicit(v: jax.Array) -> bool:
    """Tell whether an array has its sharding in its type: then products and reshapes have to name that of theirs."""
    return any(part is not None for part in jax.typeof(v).sharding.spec)


def is_constant(shape: Iterable[object]) -> bool:
    """Tell whether every size is known, and none of them symbolic."""
    return all(isinstance(size, int) for size in shape)
