"""Arithmetic that is written for the compiler when a program is lowered.

Only then is it known which axes ``vmap`` has added, and for which platform the program is: a CPU wants other sums and
products than GPU and TPU, which fuse what they are given, and it wants barriers. What JAX has to know of each operation
to differentiate and to map it is registered with the public tables of ``jax.interpreters``.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Rule = Callable[..., Any]


class Deferred:
    """An operation with two forms: `general`, and that `on_cpu`.

    `batch` is the rule of ``vmap``, as the tables want it; `differentiate` registers the derivatives of a primitive.
    The result of a single-result operation has the type that `general` gives it.
    """

    def __init__(
        self, name: str, general: Rule, on_cpu: Rule, *, batch: Rule, differentiate: Rule, several: bool = False
    ) -> None:
        self._general, self._on_cpu = general, on_cpu
        self._primitive = Primitive(f"braindnorm_{name}")
        self._primitive.multiple_results = several
        self._primitive.def_impl(general)
        self._primitive.def_abstract_eval(self._abstract)
        differentiate(self._primitive)
        batching.primitive_batchers[self._primitive] = batch
        mlir.register_lowering(self._primitive, mlir.lower_fun(general, multiple_results=several))
        mlir.register_lowering(self._primitive, mlir.lower_fun(on_cpu, multiple_results=several), platform="cpu")

    def __call__(self, *values: Any, **static: Any) -> Any:
        if jax.sharding.get_abstract_mesh().manual_axes:
            # within shard_map a type says along which axes a value varies, in words that depend on the version of JAX
            return (self._on_cpu if jax.default_backend() == "cpu" else self._general)(*values, **static)
        return self._primitive.bind(*values, **static)

    def _abstract(self, *values: Any, **static: Any) -> Any:
        types = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
        found = jax.eval_shape(lambda *v: self._general(*v, **static), *types)
        return jax.tree.map(lambda v: jax.core.ShapedArray(v.shape, v.dtype), found)


def linear(transpose: Rule) -> Rule:
    """Return what registers an operation that is linear in its one operand."""
    return lambda primitive: ad.deflinear2(primitive, transpose)


def bilinear(left: Rule, right: Rule) -> Rule:
    """Return what registers an operation that is linear in each of two operands, by the transposes in each."""
    return lambda primitive: ad.defbilinear(primitive, left, right)


def shape_of(v: Any) -> tuple[int, ...]:
    """Return the shape of what a transpose is given in place of an operand."""
    return tuple(v.aval.shape if ad.is_undefined_primal(v) else v.shape)


def is_constant(shape: Any) -> bool:
    """Tell whether every size is known, and none of them symbolic."""
    return all(isinstance(size, int) for size in shape)
