"""What flax's norms hold, of nnx and of linen: scale and bias, running statistics, and the size that these tell."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._numerics.axes import Axes
from ..layers import BatchNorm
from ._batch_norm import running_values
from ._common import Foreign, refuse, weights_of


def collections_of(layer: Any) -> dict[str, dict[str, jax.Array]]:
    """Return scale and bias, and running statistics, as the variables of a linen module."""
    collections = {"params": dict(zip(("scale", "bias"), weights_of(layer), strict=True))}
    if isinstance(layer, BatchNorm):
        collections["batch_stats"] = dict(zip(("mean", "var"), running_values(layer), strict=True))
    shape = features_of(layer)
    return {
        name: {key: value.reshape(shape) for key, value in values.items() if value is not None}
        for name, values in collections.items()
    }


def features_of(layer: Any) -> tuple[int, ...]:
    """Return the lengths of the feature axes."""
    return tuple(layer.in_size[axis] for axis in layer.feature_axes)


def variables_of(module: Foreign) -> tuple[Foreign, Foreign]:
    """Return scale and bias of an nnx module."""
    both = (getattr(module, key, None) for key in ("scale", "bias"))
    scale, bias = (None if variable is None else variable[...] for variable in both)
    return scale, bias


def weights_in(module: Foreign, variables: Mapping[str, Foreign] | None) -> tuple[Foreign, Foreign]:
    """Return scale and bias from the variables of a linen module."""
    params = (variables or {}).get("params", {})
    for key in ("scale", "bias"):
        if getattr(module, f"use_{key}", False) and key not in params:
            remedy = "Pass what module.init returned: from_flax(module, variables)."
            refuse(type(module).__name__, f"of linen has a {key}, but the variables hold none", remedy)
    return params.get("scale"), params.get("bias")


def statistics_of(module: Foreign, variables: Mapping[str, Foreign] | None) -> tuple[Foreign, Foreign]:
    """Return the running mean and variance of a batch norm, of nnx or from the variables of a linen module."""
    if hasattr(module, "num_features"):
        return module.mean[...], module.var[...]
    statistics = (variables or {}).get("batch_stats", {})
    if not {"mean", "var"} <= statistics.keys():
        remedy = "Pass what module.init returned: from_flax(module, variables)."
        refuse(type(module).__name__, "of linen has running statistics, but the variables hold none", remedy)
    return statistics["mean"], statistics["var"]


def size_of(module: Foreign, features: Sequence[int], in_size: Axes | None, weight: Foreign) -> Foreign:
    """Return `in_size`, or the number of features where the last axis holds them all."""
    kind = type(module).__name__
    if max(features) >= 0:
        remedy = "Write them as negative numbers, which count from the right."
        option = "axis" if kind == "BatchNorm" else "feature_axes"
        refuse(kind, f"counts {option}={tuple(features)} from the left of an input of unknown rank", remedy)
    if in_size is not None:
        return in_size
    groups: list[Foreign] = [getattr(module, key, None) for key in ("num_groups", "group_size")]
    known = getattr(module, "num_features", None if weight is None else weight.size)
    if known is None and all(groups):
        known = math.prod(groups)
    if known is None or tuple(features) != (-1,):
        remedy = "Give in_size, the size of the input without its batch axes."
        refuse(kind, f"does not tell how long its feature axes {tuple(features)} are", remedy)
    return known
