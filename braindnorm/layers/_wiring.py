"""What a layer hands to its functional norm, and what it can refuse before it has seen an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from .. import units
from .._numerics.collectives import AxisName
from ..errors import OptionError
from ..functional._dtypes import result_dtype
from ..functional._enter import MaskedOutput, NormOptions, check_flag, check_masked_output
from ..functional._reduction import check_axis_name
from ..masks._step_mask import with_step_mask
from ..units import DtypeLike, MaskLike, QuantityLike, Unit

if TYPE_CHECKING:
    from ._norm import AffineModule


class SharedOptions:
    """The options that all layers with moments share, as their attributes: :func:`keep_options` sets them."""

    epsilon: QuantityLike
    unit: Unit | None
    out_unit: Unit | None
    masked_output: MaskedOutput
    axis_name: AxisName | None
    axis_index_groups: Sequence[Sequence[int]] | None
    use_fast_variance: bool
    stop_statistics_gradient: bool
    dtype: DtypeLike | None


OPTIONS = tuple(SharedOptions.__annotations__)


def keep_options(layer: SharedOptions, **options: Unpack[NormOptions]) -> None:
    """Set the shared options as attributes of a layer, and refuse those that no input could make right.

    The checks are those of the functional norm itself, asked early.
    """
    unit = units.check_unit(options["unit"], option="unit")
    units.check_unit(options["out_unit"], option="out_unit")
    check_masked_output(options["masked_output"])
    check_flag("use_fast_variance", options["use_fast_variance"])
    check_flag("stop_statistics_gradient", options["stop_statistics_gradient"])
    check_axis_name(options["axis_name"], options["axis_index_groups"])
    result_dtype([], options["dtype"])
    units.check_epsilon(options["epsilon"], unit)
    for key in OPTIONS:
        setattr(layer, key, options[key])  # type: ignore[literal-required]


def keep_flags(layer: object, **flags: bool) -> None:
    """Set attributes of a layer that are True or False."""
    for key, flag in flags.items():
        check_flag(key, flag)
        setattr(layer, key, bool(flag))


def check_name(name: str | None, layer: object) -> str | None:
    """Return what a layer is to be called, or None; brainstate takes nothing but text."""
    if name is None or isinstance(name, str):
        return name
    raise OptionError(f"name must be text or None; got {name!r}.")


def call_options(layer: AffineModule, x: QuantityLike, mask: MaskLike | None) -> dict[str, Any]:
    """Return the shared options of a layer as arguments of its functional norm, and the mask of this call."""
    mask = with_step_mask(mask, x, layer.in_size)
    return {"mask": mask, **{key: getattr(layer, key) for key in OPTIONS}}


def label(layer: object) -> str:
    """Return what errors call a layer: its class, and its name or else its size."""
    kind = type(layer).__name__
    name, size = getattr(layer, "name", None), getattr(layer, "in_size", None)  # not there yet while it is built
    if name is not None:
        return f"{kind} {name!r}"
    return kind if size is None else f"{kind}(in_size={size})"
