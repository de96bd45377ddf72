"""How other packages spell axes: trailing ones, channels first, channels last."""

from collections.abc import Sequence
from typing import Any

from .._numerics.axes import Axes, as_size
from ..layers import GroupNorm, LayerNorm, RMSNorm
from ..units import Shape
from ._common import lacks, refuse, state_of


def trailing(module: object, shape: Sequence[int], in_size: Axes | None = None) -> dict[str, Any]:
    """Return the axes of our layer for a module that normalizes and scales trailing axes of this shape.

    Raises
    ------
    ConversionError
        If `in_size` is given, and ends otherwise.
    """
    size, ends = tuple(shape) if in_size is None else as_size(in_size), tuple(shape)
    if size[len(size) - len(ends) :] != ends:
        remedy = f"Leave it out, or end it with {ends}."
        refuse(type(module).__name__, f"normalizes axes of shape {ends}, but in_size={size}", remedy)
    axes = tuple(range(-len(ends), 0))
    return {"in_size": size, "reduction_axes": axes, "feature_axes": axes}


def trailing_shape(layer: LayerNorm | RMSNorm, target: str) -> Shape:
    """Return the lengths of the trailing axes that are normalized and scaled elementwise.

    Raises
    ------
    ConversionError
        If the layer reduces other axes, or learns a scale for a part of them.
    """
    size, reduced = layer.in_size, sorted(layer.reduction_axes)
    depth = len(reduced)
    if not 0 < depth <= len(size) or reduced != list(range(-depth, 0)):
        what = f"reduction_axes={layer.reduction_axes}"
        remedy = f"It normalizes trailing axes of in_size={size} alone: write those, as negative numbers."
        lacks(layer, what, target, remedy)
    if state_of(layer) is not None and list(layer.feature_axes) != list(range(len(size) - depth, len(size))):
        what = f"feature_axes={layer.feature_axes}"
        remedy = f"It learns a scale for every element of the normalized axes: {tuple(reduced)} of in_size={size}."
        lacks(layer, what, target, remedy)
    return tuple(size[-depth:])


def channels_first(module: object, channels: int | None, in_size: Axes | None) -> dict[str, Any]:
    """Return the axes of our GroupNorm for a module whose channels stand before all axes of space.

    Raises
    ------
    ConversionError
        If `in_size` is missing, which alone tells the axes of space, or begins with another number of channels.
    """
    kind = type(module).__name__
    if in_size is None:
        example = f"in_size=({channels or 'channels'}, height, width)"
        refuse(kind, "does not know how many axes its input has", f"Give {example}, or the channels alone.")
    size = tuple(in_size) if isinstance(in_size, Sequence) else (in_size,)
    if channels is not None and (not size or size[0] != channels):
        refuse(kind, f"has {channels} channels, but in_size={size}", "Begin in_size with the channels.")
    return {"in_size": size, "feature_axis": 0, "reduction_axes": tuple(range(1 - len(size), 0))}


def check_channels_first(layer: GroupNorm, target: str) -> int:
    """Return the number of channels of a GroupNorm that stand before the axes of space, all of which it reduces.

    Raises
    ------
    ConversionError
        If the channels stand elsewhere, or other axes are reduced.
    """
    rank = len(layer.in_size)
    if layer.feature_axis != -rank:
        remedy = f"Its channels come first: build the layer with feature_axis=0, not {layer.feature_axis}."
        lacks(layer, f"channels on axis {layer.feature_axis} of in_size={layer.in_size}", target, remedy)
    axes = layer.reduction_axes
    if axes is not None and set(axes) - {-rank} != set(range(1 - rank, 0)):
        remedy = "It reduces the channels of a group and all axes after them: write those, as negative numbers."
        lacks(layer, f"reduction_axes={axes}", target, remedy)
    return int(layer.in_size[0])


def check_channels_last(layer: GroupNorm, target: str) -> int:
    """Return the number of channels of a GroupNorm that stand last, and that reduces all axes but the leading one.

    Raises
    ------
    ConversionError
        If the channels stand elsewhere, or the axes to reduce are given: these packages confuse the groups where more
        than one leading axis is kept.
    """
    if layer.feature_axis != -1:
        remedy = "Its channels come last: build the layer with feature_axis=-1."
        lacks(layer, f"channels on axis {layer.feature_axis} of in_size={layer.in_size}", target, remedy)
    if layer.reduction_axes is not None:
        remedy = "Build the layer with reduction_axes=None: all axes but the leading one."
        lacks(layer, f"reduction_axes={layer.reduction_axes}", target, remedy)
    return int(layer.in_size[-1])
