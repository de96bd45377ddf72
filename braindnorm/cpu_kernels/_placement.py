"""Where a program runs: on one device's data, in this process; or divided, or elsewhere.

JAX says it in what it hands to a lowering, and in the types of values. The names differ between its versions: what is
not found is taken for a reason against a kernel.
"""

from typing import Any


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


def varies(aval: object) -> bool:
    """Tell whether a type says that its value varies along the axes of a ``shard_map``, or may say so."""
    kind = getattr(aval, "manual_axis_type", aval)
    return bool(getattr(kind, "varying", getattr(kind, "vma", True)))
