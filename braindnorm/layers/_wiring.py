"""What a layer hands to its functional norm, and what it can refuse before it has seen an input."""

from typing import Any

import brainstate
import numpy as np

from .. import units
from ..errors import OptionError
from ..functional._dtypes import result_dtype
from ..functional._enter import check_masked_output
from ..functional._reduction import check_axis_name
from ..functional._standardize import check_fast_variance
from ..masks._step_mask import with_step_mask

OPTIONS = (
    "epsilon", "unit", "out_unit", "masked_output", "axis_name", "axis_index_groups", "use_fast_variance", "dtype",
)  # fmt: skip


def keep_options(layer: brainstate.nn.Module, **options: Any) -> None:
    """Set the shared options as attributes of a layer, and refuse those that no input could make right.

    The checks are those of the functional norm itself, asked early.
    """
    unit = units.check_unit(options["unit"], option="unit")
    units.check_unit(options["out_unit"], option="out_unit")
    check_masked_output(options["masked_output"])
    check_fast_variance(options["use_fast_variance"])
    check_axis_name(options["axis_name"], options["axis_index_groups"])
    result_dtype([], options["dtype"])
    units.check_epsilon(options["epsilon"], unit)
    for key in OPTIONS:
        setattr(layer, key, options[key])


def keep_flags(layer: brainstate.nn.Module, **flags: Any) -> None:
    """Set attributes of a layer that are True or False."""
    for key, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise OptionError(f"{key} must be True or False; got {flag!r}.")
        setattr(layer, key, bool(flag))


def check_name(name: Any, layer: Any) -> str | None:
    """Return what a layer is to be called, or None; brainstate takes nothing but text."""
    if name is None or isinstance(name, str):
        return name
    raise OptionError(f"name must be text or None; got {name!r}.")


def call_options(layer: Any, x: Any, mask: Any) -> dict[str, Any]:
    """Return the shared options of a layer as arguments of its functional norm, and the mask of this call."""
    mask = with_step_mask(mask, x, layer.in_size)
    return {"mask": mask, **{key: getattr(layer, key) for key in OPTIONS}}


def label(layer: brainstate.nn.Module) -> str:
    """Return what errors call a layer: its class, and its name or else its size."""
    kind = type(layer).__name__
    name, size = getattr(layer, "name", None), getattr(layer, "in_size", None)  # not there yet while it is built
    if name is not None:
        return f"{kind} {name!r}"
    return kind if size is None else f"{kind}(in_size={size})"
