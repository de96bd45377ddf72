"""flax's norms, of nnx and of linen, there and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._numerics.axes import Axes, as_axes
from .._optional import package
from ..errors import named
from ..layers import GroupNorm, LayerNorm, RMSNorm
from ._common import AS_THERE, KINDS, Foreign, Norm, check_expressible, epsilon_of, load, refuse, unknown, weights_of
from ._shapes import check_channels_last

__all__ = ["from_flax", "to_flax", "to_linen"]

# Options of the same name and meaning there and here.
_SHARED = ("epsilon", "dtype", "axis_name", "axis_index_groups", "reduction_axes")
# The two-pass variance: the one of flax's two that is as careful as ours.
_CAREFUL = {"use_fast_variance": False}


@named("from_flax")
def from_flax(
    module: Foreign,
    variables: Mapping[str, Any] | None = None,
    in_size: Axes | None = None,
    **options: Any,
) -> Norm:
    """Build our layer from ``LayerNorm``, ``RMSNorm`` or ``GroupNorm`` of ``flax.nnx`` or ``flax.linen``.

    Parameters
    ----------
    module : nnx.Module or linen.Module
        The norm.
    variables : dict, optional
        What ``init`` of a linen module returned, ``{'params': {'scale': ..., 'bias': ...}}``.
    in_size : int or sequence of int, optional
        The size of the input without its batch axes. Needed where the module does not tell it: several feature axes, or
        a linen module without parameters.
    **options
        Options of our layer, which win: `unit`, `out_unit`, `masked_output` and so on. Without one, masked positions
        come out as from flax (``masked_output='normalize'``).

    Returns
    -------
    LayerNorm, RMSNorm or GroupNorm
        With the same values. Scale and bias are in `out_unit`.

    Raises
    ------
    ConversionError
        If it is of another class, or its size is not known.
    PackageError
        If flax is not installed.

    Notes
    -----
    `use_fast_variance` is not carried over: ours is at least as careful by default as flax's is at its best.
    """
    linen, nnx = package("flax.linen"), package("flax.nnx")
    kind = type(module).__name__
    if kind not in KINDS or type(module) not in (getattr(nnx, kind), getattr(linen, kind)):
        unknown(module, KINDS)
    scale, bias = _weights(module, variables) if isinstance(module, linen.Module) else _variables(module)
    features = as_axes(getattr(module, "feature_axes", -1), option="feature_axes")
    arguments = {key: getattr(module, key) for key in _SHARED} | AS_THERE
    arguments |= {"use_scale": module.use_scale, "in_size": _size(module, features, in_size, scale, bias)}
    if kind == "RMSNorm":
        return load(RMSNorm(**{**arguments, "feature_axes": features, **options}), scale)
    arguments |= {"use_bias": module.use_bias}
    if kind == "LayerNorm":
        return load(LayerNorm(**{**arguments, "feature_axes": features, **options}), scale, bias)
    arguments |= {"num_groups": None if module.group_size else module.num_groups, "group_size": module.group_size}
    return load(GroupNorm(**{**arguments, **options}), scale, bias)


@named("to_flax")
def to_flax(layer: Norm) -> Foreign:
    """Build ``nnx.LayerNorm``, ``RMSNorm`` or ``GroupNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm or GroupNorm
        Ours. GroupNorm is channels-last and reduces all axes but the leading one.

    Returns
    -------
    nnx.Module
        With the same values, by the careful variance (``use_fast_variance=False``). A mask does there what
        ``masked_output='normalize'`` does here.

    Raises
    ------
    ConversionError
        If the layer has an option that flax lacks, which it names.
    PackageError
        If flax is not installed.
    """
    nnx = package("flax.nnx")
    options = _options(layer, f"flax.nnx.{type(layer).__name__}")
    module = getattr(nnx, type(layer).__name__)(math.prod(_features(layer)), **options, rngs=nnx.Rngs(0))
    for key, value in zip(("scale", "bias"), weights_of(layer), strict=True):
        if value is not None:
            setattr(module, key, nnx.Param(value.reshape(-1)))
    return module


@named("to_linen")
def to_linen(layer: Norm) -> tuple[Foreign, dict[str, dict[str, jax.Array]]]:
    """Build ``linen.LayerNorm``, ``RMSNorm`` or ``GroupNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm or GroupNorm
        Ours. GroupNorm is channels-last and reduces all axes but the leading one.

    Returns
    -------
    module : linen.Module
        With the same values, by the careful variance (``use_fast_variance=False``).
    variables : dict
        For ``module.apply(variables, x)``: ``{'params': {'scale': ..., 'bias': ...}}``.

    Raises
    ------
    ConversionError
        If the layer has an option that flax lacks, which it names.
    PackageError
        If flax is not installed.
    """
    linen = package("flax.linen")
    options = _options(layer, f"flax.linen.{type(layer).__name__}")
    params = {
        key: value.reshape(_features(layer))
        for key, value in zip(("scale", "bias"), weights_of(layer), strict=True)
        if value is not None
    }
    return getattr(linen, type(layer).__name__)(**options), {"params": params}


def _options(layer: Any, target: str) -> dict[str, Any]:
    """Return our options as arguments of flax's norm of the same name."""
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm):
        unknown(layer, KINDS)
    check_expressible(layer, target, has=("axis_name", "axis_index_groups", "dtype"))
    scale, bias = weights_of(layer)
    options = {key: getattr(layer, key) for key in _SHARED} | {"use_scale": scale is not None, **_CAREFUL}
    options["epsilon"] = epsilon_of(layer)
    weight = scale if bias is None else bias
    if weight is not None:
        options["param_dtype"] = weight.dtype
    if not isinstance(layer, RMSNorm):
        options["use_bias"] = bias is not None
    if isinstance(layer, GroupNorm):
        check_channels_last(layer, target)
        options["num_groups"] = layer.num_groups
    else:
        options["feature_axes"] = tuple(axis - len(layer.in_size) for axis in layer.feature_axes)
    return options


def _features(layer: Any) -> tuple[int, ...]:
    """Return the lengths of the feature axes."""
    return tuple(layer.in_size[axis] for axis in layer.feature_axes)


def _variables(module: Foreign) -> tuple[Any, Any]:
    """Return scale and bias of an nnx module."""
    both = (getattr(module, key, None) for key in ("scale", "bias"))
    scale, bias = (None if variable is None else variable[...] for variable in both)
    return scale, bias


def _weights(module: Foreign, variables: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return scale and bias from the variables of a linen module."""
    params = (variables or {}).get("params", {})
    for key in ("scale", "bias"):
        if getattr(module, f"use_{key}", False) and key not in params:
            remedy = "Pass what module.init returned: from_flax(module, variables)."
            refuse(type(module).__name__, f"of linen has a {key}, but the variables hold none", remedy)
    return params.get("scale"), params.get("bias")


def _size(module: Foreign, features: Sequence[int], in_size: Any, scale: Any, bias: Any) -> Any:
    """Return `in_size`, or the number of features where the last axis holds them all."""
    kind = type(module).__name__
    if max(features) >= 0:
        remedy = "Write them as negative numbers, which count from the right."
        refuse(kind, f"counts feature_axes={tuple(features)} from the left of an input of unknown rank", remedy)
    if in_size is not None:
        return in_size
    weight = scale if bias is None else bias
    groups: list[Any] = [getattr(module, key, None) for key in ("num_groups", "group_size")]
    known = getattr(module, "num_features", None if weight is None else weight.size)
    if known is None and all(groups):
        known = math.prod(groups)
    if known is None or tuple(features) != (-1,):
        remedy = "Give in_size, the size of the input without its batch axes."
        refuse(kind, f"does not tell how long its feature axes {tuple(features)} are", remedy)
    return known
