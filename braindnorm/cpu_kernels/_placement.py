"""Where a program runs: on one device's data, in this process; or divided, or elsewhere.

JAX says it in what it hands to a lowering, and in the types of values. The names differ between its versions: what is
not found is taken for a reason against a kernel.
"""

from collections.abc import Sequence
from typing import Any

import jax


def is_local(context: Any) -> bool:
    """Tell whether what is lowered sees one device's data, and runs in this process."""
    module = context.module_context
    if getattr(getattr(module, "lowering_parameters", None), "for_export", True):
        return False
    axes = module.axis_context
    shape = getattr(getattr(axes, "mesh", None), "shape", None)
    if shape is None:
        return getattr(axes, "num_devices", None) == 1
    manual = getattr(axes, "manual_axes", ())
    return all(size == 1 or name in manual for name, size in shape.items())


def varying(value: jax.Array) -> frozenset[str] | None:
    """Return the axes of a ``shard_map`` along which a value varies, by its type; None if the type does not tell."""
    kind = jax.typeof(value)
    kind = getattr(kind, "manual_axis_type", kind)
    axes: frozenset[str] | None = getattr(kind, "varying", getattr(kind, "vma", None))
    return axes


def can_be_alike(values: Sequence[jax.Array]) -> bool:
    """Tell whether `alike` can be called: it has to where some vary, since a foreign call does not mix the two."""
    axes = [varying(value) for value in values]
    castable = hasattr(jax.lax, "pcast") or hasattr(jax.lax, "pvary")
    return None not in axes and (castable or not any(axes))


def alike(values: Sequence[jax.Array], like: Sequence[jax.Array]) -> list[jax.Array]:
    """Return values that vary along all axes that some of others do. Their cotangents are summed over what is added."""
    axes = frozenset[str]().union(*(varying(value) or () for value in like))
    return [_varying_along(value, axes - (varying(value) or frozenset())) for value in values]


def _varying_along(value: jax.Array, axes: frozenset[str]) -> jax.Array:
    if not axes:
        return value
    names = tuple(sorted(axes))
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(value, names, to="varying")  # type: ignore[no-any-return]
    return jax.lax.pvary(value, names)  # type: ignore[attr-defined,no-any-return]  # its name before
