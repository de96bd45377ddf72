"""flax's norms, of nnx and of linen, there and back."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from .._numerics.axes import Axes, as_axes
from .._optional import package
from ..errors import named
from ..layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from ._batch_norm import BATCH_NORMS, affine_of, check_batch_norm, load_batch_norm
from ._common import (
    AS_THERE,
    WITH_BATCH,
    Foreign,
    Norm,
    check_expressible,
    epsilon_of,
    lacks,
    load,
    unknown,
    weights_of,
)
from ._flax_arrays import collections_of, features_of, size_of, statistics_of, variables_of, weights_in
from ._shapes import check_channels_last

__all__ = ["from_flax", "to_flax", "to_linen"]

# Options of the same name and meaning there and here.
_SHARED = ("epsilon", "dtype", "axis_name", "axis_index_groups")
# The two-pass variance: the one of flax's two that is as careful as ours.
_CAREFUL = {"use_fast_variance": False}


@named("from_flax")
def from_flax(
    module: Foreign,
    variables: Mapping[str, Any] | None = None,
    in_size: Axes | None = None,
    **options: Any,
) -> Norm:
    """Build our layer from ``LayerNorm``, ``RMSNorm``, ``GroupNorm`` or ``BatchNorm``, of ``flax.nnx`` or of linen.

    Parameters
    ----------
    module : nnx.Module or linen.Module
        The norm.
    variables : dict, optional
        What ``init`` of a linen module returned, ``{'params': {'scale': ..., 'bias': ...}}``, of a batch norm with
        ``'batch_stats': {'mean': ..., 'var': ...}``.
    in_size : int or sequence of int, optional
        The size of the input without its batch axes. Needed where the module does not tell it: several feature axes, or
        a linen module without parameters.
    **options
        Options of our layer, which win: `unit`, `out_unit`, `masked_output` and so on. Without one, masked positions
        come out as from flax (``masked_output='normalize'``).

    Returns
    -------
    LayerNorm, RMSNorm, GroupNorm or BatchNorm
        With the same values. Scale and bias are in `out_unit`, running statistics in `unit` and its square. The phase
        of a batch norm is not ``use_running_average``, but `fit` in ``brainstate.environ``.

    Raises
    ------
    ConversionError
        If it is of another class, its size is not known, or a batch norm has a bias without a scale.
    PackageError
        If flax is not installed.

    Notes
    -----
    `use_fast_variance` is not carried over: ours is at least as careful by default as flax's is at its best.
    """
    linen, nnx = package("flax.linen"), package("flax.nnx")
    kind = type(module).__name__
    if kind not in WITH_BATCH or type(module) not in (getattr(nnx, kind), getattr(linen, kind)):
        unknown(module, WITH_BATCH)
    scale, bias = weights_in(module, variables) if isinstance(module, linen.Module) else variables_of(module)
    arguments = {key: getattr(module, key) for key in _SHARED} | AS_THERE
    if kind == "BatchNorm":
        mean, var = statistics_of(module, variables)
        features = as_axes(module.axis, option="axis")
        arguments |= {"momentum": module.momentum, "feature_axis": features}
        arguments |= {"in_size": size_of(module, features, in_size, mean), **affine_of(module, scale, bias, options)}
        return load_batch_norm(BatchNorm(**{**arguments, **options}), scale, bias, mean, var)
    features = as_axes(getattr(module, "feature_axes", -1), option="feature_axes")
    size = size_of(module, features, in_size, scale if bias is None else bias)
    arguments |= {"reduction_axes": module.reduction_axes, "use_scale": module.use_scale, "in_size": size}
    if kind == "RMSNorm":
        return load(RMSNorm(**{**arguments, "feature_axes": features, **options}), scale)
    arguments |= {"use_bias": module.use_bias}
    if kind == "LayerNorm":
        return load(LayerNorm(**{**arguments, "feature_axes": features, **options}), scale, bias)
    arguments |= {"num_groups": None if module.group_size else module.num_groups, "group_size": module.group_size}
    return load(GroupNorm(**{**arguments, **options}), scale, bias)


@named("to_flax")
def to_flax(layer: Norm) -> Foreign:
    """Build ``nnx.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or ``BatchNorm`` from our layer.

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
    kind = _kind(layer)
    options = _options(layer, f"flax.nnx.{kind}")
    if isinstance(layer, BatchNorm) and len(layer.feature_axes) > 1:
        what, remedy = f"feature_axes={layer.feature_axes}", "Convert it by to_linen, or reshape the input."
        lacks(layer, what, f"flax.nnx.{kind}", remedy)
    module = getattr(nnx, kind)(math.prod(features_of(layer)), **options, rngs=nnx.Rngs(0))
    for collection, values in collections_of(layer).items():
        variable = nnx.Param if collection == "params" else nnx.BatchStat
        for key, value in values.items():
            setattr(module, key, variable(value.reshape(-1)))
    return module


@named("to_linen")
def to_linen(layer: Norm) -> tuple[Foreign, dict[str, dict[str, jax.Array]]]:
    """Build ``linen.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or ``BatchNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm or GroupNorm
        Ours. GroupNorm is channels-last and reduces all axes but the leading one.

    Returns
    -------
    module : linen.Module
        With the same values, by the careful variance (``use_fast_variance=False``).
    variables : dict
        For ``module.apply(variables, x)``: ``{'params': {'scale': ..., 'bias': ...}}``, of a batch norm with
        ``'batch_stats': {'mean': ..., 'var': ...}``. Its call says ``use_running_average``.

    Raises
    ------
    ConversionError
        If the layer has an option that flax lacks, which it names.
    PackageError
        If flax is not installed.
    """
    linen = package("flax.linen")
    options = _options(layer, f"flax.linen.{_kind(layer)}")
    return getattr(linen, _kind(layer))(**options), collections_of(layer)


def _kind(layer: Any) -> str:
    """Return the name of flax's norm."""
    return "BatchNorm" if isinstance(layer, BatchNorm) else type(layer).__name__


def _options(layer: Any, target: str) -> dict[str, Any]:
    """Return our options as arguments of flax's norm of the same name."""
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm, *BATCH_NORMS):
        unknown(layer, WITH_BATCH)
    has = ("axis_name", "axis_index_groups", "dtype")
    if isinstance(layer, BatchNorm):
        check_batch_norm(layer, target, unbiased=False, scale_alone=True, has=has)
    else:
        check_expressible(layer, target, has=has)
    scale, bias = weights_of(layer)
    options = {key: getattr(layer, key) for key in _SHARED} | {"use_scale": scale is not None, **_CAREFUL}
    options["epsilon"] = epsilon_of(layer)
    weight = scale if bias is None else bias
    if weight is not None:
        options["param_dtype"] = weight.dtype
    if not isinstance(layer, RMSNorm):
        options["use_bias"] = bias is not None
    features = tuple(axis - len(layer.in_size) for axis in layer.feature_axes)
    if isinstance(layer, BatchNorm):
        axis = features[0] if len(features) == 1 else features
        return options | {"axis": axis, "momentum": layer.momentum}
    options["reduction_axes"] = layer.reduction_axes
    if isinstance(layer, GroupNorm):
        check_channels_last(layer, target)
        return options | {"num_groups": layer.num_groups}
    return options | {"feature_axes": features}
