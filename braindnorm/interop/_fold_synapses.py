"""Fold a line into the weights before or after it: Linear, OneToOne and Conv1d to Conv3d of brainstate.nn."""

import copy
import math
from typing import Any

import numpy as np
from brainstate import nn

from .. import units
from ..errors import UnitError
from ..units import QuantityLike, Shape, Unit
from ._common import Foreign, refuse
from ._line import Line, Numbers, join, product, split

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SYNAPSES = (nn.Linear, nn.OneToOne, *CONVS)


def fold_after(layer: Foreign, line: Line, between: Unit) -> Foreign:
    """Return a layer that does what `layer` and then the line do; `between` multiplies what goes from one to the other.

    W' = W a and b' = b0 a + c, for y = a x + c.
    """
    slope, offset = (_per_channel(values, line, layer, layer.out_size) for values in line[:2])
    weights = layer.weight.value
    weight, unit = split(weights["weight"], "the weight")
    offset = offset + _old_bias(layer, line.unit, between) * slope
    scaled, out_unit = weight * slope, product(unit, between, line.out_unit, over=line.unit)
    if out_unit.has_same_dim(line.out_unit):  # the input has no unit: what comes is in the norm's own, as before
        scaled, out_unit = np.asarray(units.convert(scaled, out_unit, line.out_unit)), line.out_unit
    new = {
        "weight": join(scaled, out_unit, weights["weight"]),
        "bias": join(offset.reshape(_bias_shape(layer, offset)), line.out_unit, weights["weight"]),
    }
    return _with(layer, new)


def fold_before(line: Line, layer: Foreign, between: Unit) -> Foreign:
    """Return a layer that does what the line and then `layer` do.

    W' = a W and b' = c W + b0: the offset passes through the weights.
    """
    slope, offset = (_per_channel(values, line, layer, layer.in_size) for values in line[:2])
    weights = layer.weight.value
    weight, unit = split(weights["weight"], "the weight")
    if isinstance(layer, CONVS):
        _check_borders(layer, offset)
    out_unit = product(unit, between, line.out_unit)
    bias = _old_bias(layer, out_unit, units.UNITLESS) + _through(layer, offset, _masked(layer, weight))
    new = {
        "weight": join(_scaled_inputs(layer, slope, weight), product(out_unit, over=line.unit), weights["weight"]),
        "bias": join(bias.reshape(_bias_shape(layer, bias)), out_unit, weights["weight"]),
    }
    return _with(layer, new)


def _with(layer: Foreign, weights: dict[str, QuantityLike]) -> Foreign:
    new = copy.copy(layer)
    new.weight = type(layer.weight)(weights)
    return new


def channel_first(layer: Foreign) -> bool:
    """Tell whether a convolution has its channels before its axes of space."""
    return bool(getattr(layer, "channel_first", False))


def _per_channel(values: Numbers, line: Line, layer: Foreign, size: Shape) -> Numbers:
    """Return a number for each channel of a layer: a vector, or for OneToOne what broadcasts to its size."""
    kind = type(layer).__name__
    if type(layer) is nn.OneToOne:
        return values
    axis = -1 - layer.num_spatial_dims if isinstance(layer, CONVS) and channel_first(layer) else -1
    count = size[axis]
    if line.channels != (axis,):
        where = ", ".join(map(str, line.channels))
        remedy = "Give both the same layout (feature_axis, channel_first)."
        refuse(kind, f"has its channels on axis {axis}, and the norm on axis {where}, counted from the right", remedy)
    if values.size != count:
        refuse(kind, f"has {count} channels there, and the norm {values.size}", "Give both the same number.")
    return values.reshape(-1)


def _old_bias(layer: Foreign, unit: Unit, between: Unit) -> Numbers:
    """Return the bias that a layer has, in the unit in which it is added; 0 without one."""
    if "bias" not in layer.weight.value:
        return np.zeros(())
    bias, source = split(layer.weight.value["bias"], "the bias")
    source = product(source, between)
    if not source.has_same_dim(unit):
        raise UnitError(
            f"the bias of {type(layer).__name__} is in {source}, but it is to be added in {unit}. If the model"
            f" multiplies what goes from one layer to the other by a unit, as in norm(layer(x) * unit), write"
            f" fold_norm(..., between=unit)."
        )
    flat = bias if type(layer) is nn.OneToOne else bias.reshape(-1)
    return np.asarray(units.convert(flat, source, unit), np.float64)


def _bias_shape(layer: Foreign, bias: Numbers) -> Shape:
    if not isinstance(layer, CONVS):
        return tuple(bias.shape)
    ones: list[int] = [1] * int(layer.num_spatial_dims)
    shape: Shape = (1, bias.size, *ones) if channel_first(layer) else (*ones, bias.size)
    return shape


def _masked(layer: Foreign, weight: Numbers) -> Numbers:
    mask: Any = getattr(layer, "w_mask", None)
    return weight if mask is None else weight * np.asarray(mask, np.float64)


def _grouped(layer: Foreign, values: Numbers) -> Numbers:
    """Return a number for each input channel in the shape of a kernel: (channels of a group, output channels)."""
    groups = getattr(layer, "groups", 1)
    outputs = layer.weight.value["weight"].shape[-1]
    return np.repeat(values.reshape(groups, -1).T, outputs // groups, axis=1)


def _scaled_inputs(layer: Foreign, slope: Numbers, weight: Numbers) -> Numbers:
    return weight * (slope if type(layer) is nn.OneToOne else _grouped(layer, slope))


def _through(layer: Foreign, offset: Numbers, weight: Numbers) -> Numbers:
    """Return what a constant input of each channel gives at the output."""
    weighted = weight * (offset if type(layer) is nn.OneToOne else _grouped(layer, offset))
    return weighted if type(layer) is nn.OneToOne else weighted.sum(tuple(range(weighted.ndim - 1)))


def padding_of(layer: Foreign) -> list[tuple[int, int]]:
    """Return by how many zeros a convolution pads each axis of space, before and after."""
    if layer.padding == "VALID":
        return [(0, 0)] * layer.num_spatial_dims
    if layer.padding != "SAME":
        return [(low, high) for low, high in layer.padding]
    shape = layer.in_size[1:] if channel_first(layer) else layer.in_size[:-1]
    pairs = []
    for size, kernel, rate, stride in zip(shape, layer.kernel_size, layer.rhs_dilation, layer.stride, strict=True):
        needed = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * rate + 1 - size, 0)
        pairs.append((needed // 2, needed - needed // 2))
    return pairs


def _check_borders(layer: Foreign, offset: Numbers) -> None:
    """Raise if zeros that the convolution pads with would have to be the norm's offset."""
    padded = any(number for pair in padding_of(layer) for number in pair)
    if (padded or max(layer.lhs_dilation) > 1) and np.any(offset):
        refuse(
            type(layer).__name__,
            "adds zeros around (or between) its input after the norm, where the norm's offset is missing",
            "Use padding='VALID', or put the norm behind the convolution, where it folds with any padding.",
        )
