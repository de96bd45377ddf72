"""A function of plain JAX that has a kernel: the kernel's value, and the derivatives of the plain function.

The rules that a primitive needs are registered with the public tables of ``jax.interpreters``. None of them is a
derivative written by hand: they differentiate, transpose and map the plain function.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.tree_util import PyTreeDef

from .._numerics.plan import Plan
from ._placement import is_local

Rows = TypeVar("Rows")
Shared = TypeVar("Shared")
Function = Callable[[Plan, Rows, Shared], tuple[jax.Array, ...]]
# the same of all lanes, whose number of axes comes last; None where plain JAX is as fast
Kernel = Callable[[Plan, Rows, Shared, int], tuple[jax.Array, ...] | None]
# an array, an abstract value, a zero that is known, or what stands for the operand that a transpose is asked for
Leaf = Any
# to the untyped values of a program
Lowering = Callable[..., Any]


class WithKernel(Generic[Rows, Shared]):
    """A function ``f(plan, rows, shared)`` that runs a kernel on a CPU.

    Which of the two a program gets is decided when it is lowered: only then is it known for which platform it is, on
    how many devices it runs, and whether it is exported to processes that may have no kernels.

    Parameters
    ----------
    name : str
        What a jaxpr calls it.
    plain, kernel : callable
        The same function twice. `plan` is static; `rows` and `shared` are trees of arrays; it returns a tuple of
        arrays. Without a kernel only its transpose has one. ``kernel(plan, rows, shared, lanes)`` is given arrays with
        so many more leading axes, along which each entry is a call of its own; it may return None, to have the plain
        function mapped over them.
    transposed : callable, optional
        ``transposed(plan, rows, shared, cotangents, lanes)`` returns the cotangents of rows and shared, with None for
        what is not linear; or None, if the plain function should be transposed.
    fold : callable, optional
        Returns the plan for `rows` with one more leading axis, along which the results are those of each: ``vmap`` is
        then one call, where it does not map what is shared. Elsewhere it adds an axis of lanes.
    """

    def __init__(
        self,
        name: str,
        plain: Function[Rows, Shared],
        kernel: Kernel[Rows, Shared] | None = None,
        *,
        transposed: Callable[[Plan, Rows, Shared, list[jax.Array], int], object] | None = None,
        fold: Callable[[Plan], Plan] | None = None,
    ) -> None:
        self._plain, self._transposed, self._fold = plain, transposed, fold
        self._primitive = Primitive(name)
        self._primitive.multiple_results = True
        self._primitive.def_impl(_of_leaves(plain))
        self._primitive.def_abstract_eval(self._abstract)
        ad.primitive_jvps[self._primitive] = self._jvp
        ad.primitive_transposes[self._primitive] = self._transpose
        batching.primitive_batchers[self._primitive] = self._batch
        mlir.register_lowering(self._primitive, _lowered(plain))
        if kernel is not None:
            mlir.register_lowering(self._primitive, _lowered_for_cpu(plain, kernel), platform="cpu")

    def __call__(self, plan: Plan, rows: Rows, shared: Shared, lanes: int = 0) -> tuple[jax.Array, ...]:
        leaves, tree = jax.tree.flatten((rows, shared))
        return tuple(self._primitive.bind(*leaves, plan=plan, lanes=lanes, tree=tree))

    def _abstract(self, *leaves: Leaf, **static: object) -> list[jax.core.ShapedArray]:
        # by the whole types of the leaves: within shard_map they say along which axes a value varies
        return list(jax.make_jaxpr(functools.partial(_of_leaves(self._plain), **static))(*leaves).out_avals)

    def _jvp(
        self, primals: Sequence[jax.Array], tangents: Sequence[Leaf], **static: object
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]
        f = functools.partial(_of_some(self._plain, primals, moving), **static)
        return jax.jvp(f, [primals[i] for i in moving], [tangents[i] for i in moving])

    def _transpose(
        self, cotangents: Sequence[Leaf], *leaves: Leaf, plan: Plan, lanes: int, tree: PyTreeDef
    ) -> list[jax.Array | None]:
        cotangents = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
        rows, shared = tree.unflatten(leaves)
        gradients = None if self._transposed is None else self._transposed(plan, rows, shared, cotangents, lanes)
        if gradients is not None:
            return list(tree.flatten_up_to(gradients))
        linear = [i for i, leaf in enumerate(leaves) if ad.is_undefined_primal(leaf)]
        f = functools.partial(_of_some(self._plain, leaves, linear), plan=plan, lanes=lanes, tree=tree)
        pulled = jax.linear_transpose(f, *[leaves[i].aval for i in linear])(cotangents)
        return _replaced([None] * len(leaves), linear, pulled)

    def _batch(
        self, leaves: Sequence[jax.Array], dims: Sequence[int | None], *, plan: Plan, lanes: int, tree: PyTreeDef
    ) -> tuple[list[jax.Array], list[int]]:
        rows = tree.children()[0].num_leaves
        if all(dim is None for dim in dims[:rows]):  # plain JAX computes the statistics once for all
            f = functools.partial(_of_leaves(self._plain), plan=plan, lanes=lanes, tree=tree)
            results = jax.vmap(f, tuple(dims))(*leaves)
            return results, [0] * len(results)
        size = next(leaf.shape[dim] for leaf, dim in zip(leaves, dims, strict=True) if dim is not None)
        moved = [
            jnp.broadcast_to(leaf, (size, *leaf.shape)) if dim is None else jnp.moveaxis(leaf, dim, 0)
            for leaf, dim in zip(leaves, dims, strict=True)
        ]
        if self._fold is None or lanes or any(dim is not None for dim in dims[rows:]):
            lanes += 1
        else:
            plan, moved[rows:] = self._fold(plan), leaves[rows:]
        results = self._primitive.bind(*moved, plan=plan, lanes=lanes, tree=tree)
        return results, [0] * len(results)


def _lowered(function: Function[Rows, Shared]) -> Lowering:
    rule: Lowering = mlir.lower_fun(_of_leaves(function), multiple_results=True)
    return rule


def _lowered_for_cpu(plain: Function[Rows, Shared], kernel: Kernel[Rows, Shared]) -> Lowering:
    """Return the lowering that takes the kernel in a program for one device's data, and the plain function elsewhere.

    XLA cannot divide a foreign call among devices: it would gather all of the input on each of them.
    """

    def either(*leaves: jax.Array, plan: Plan, lanes: int, tree: PyTreeDef) -> list[jax.Array]:
        rows, shared = tree.unflatten(leaves)
        found = kernel(plan, rows, shared, lanes)
        return _of_leaves(plain)(*leaves, plan=plan, lanes=lanes, tree=tree) if found is None else list(found)

    by_kernel, by_plain = mlir.lower_fun(either, multiple_results=True), _lowered(plain)

    def lower(context: mlir.LoweringRuleContext, *leaves: object, **static: object) -> object:
        return (by_kernel if is_local(context) else by_plain)(context, *leaves, **static)

    return lower


def _of_leaves(function: Function[Rows, Shared]) -> Callable[..., list[jax.Array]]:
    """Return it as a function of the leaves of `rows` and `shared`, mapped over their leading axes that are lanes."""

    def run(*leaves: jax.Array, plan: Plan, lanes: int, tree: PyTreeDef) -> list[jax.Array]:
        def one(*leaves: jax.Array) -> list[jax.Array]:
            return list(function(plan, *tree.unflatten(leaves)))

        mapped: Callable[..., list[jax.Array]] = one
        for _ in range(lanes):
            mapped = jax.vmap(mapped)
        return mapped(*leaves)

    return run


def _of_some(
    function: Function[Rows, Shared], leaves: Sequence[Leaf], at: Sequence[int]
) -> Callable[..., list[jax.Array]]:
    """Return it as a function of the leaves at some places, with the others held."""
    return lambda *some, **static: _of_leaves(function)(*_replaced(leaves, at, some), **static)


def _replaced(values: Sequence[Leaf], at: Sequence[int], by: Sequence[Leaf]) -> list[Leaf]:
    whole = list(values)
    for i, value in zip(at, by, strict=True):
        whole[i] = value
    return whole
