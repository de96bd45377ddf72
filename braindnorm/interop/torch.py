"""torch.nn's norms, there and back."""

import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes
from .._optional import package
from ..errors import named
from ..layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from ._batch_norm import (
    BATCH_NORMS,
    BY_SPACE,
    affine_of,
    check_batch_norm,
    check_space,
    load_batch_norm,
    running_values,
    sized,
)
from ._common import (
    KINDS,
    WITH_BATCH,
    Foreign,
    Norm,
    check_expressible,
    epsilon_of,
    lacks,
    load,
    refuse,
    unknown,
    weights_of,
)
from ._shapes import channels_first, check_channels_first, trailing, trailing_shape

__all__ = ["from_torch", "to_torch"]

# the axes of space that an input may have
_SPACES = {"BatchNorm1d": (0, 1), "BatchNorm2d": (2,), "BatchNorm3d": (3,)}


@named("from_torch")
def from_torch(module: Foreign, in_size: Axes | None = None, **options: Any) -> Norm:
    """Build our layer from ``torch.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm``, or ``BatchNorm1d`` to ``BatchNorm3d``.

    Parameters
    ----------
    module : torch.nn.Module
        The norm.
    in_size : int or sequence of int, optional
        The size of the input without its batch axes: ``(channels, height, width)``. A ``GroupNorm`` and a batch norm
        need it, for they do not know their axes of space; the others have it in their ``normalized_shape``, with which
        it ends if it is given.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    LayerNorm, RMSNorm, GroupNorm or BatchNorm0d to BatchNorm3d
        With the same values, and scale and bias in the same dtype. Their unit is `out_unit`. A batch norm keeps what
        torch's keeps, ``unbiased=True`` and the momentum as 1 minus torch's, in float32 at least and in `unit`; its
        phase is not that of the module, but `fit` in ``brainstate.environ``.

    Raises
    ------
    ConversionError
        If it is of another class, `in_size` does not fit or is missing where it is needed, or a batch norm has
        ``momentum=None`` (the average of all calls).
    PackageError
        If torch is not installed.

    Notes
    -----
    ``RMSNorm(eps=None)`` takes the spacing of the input's numbers; ours takes that of its weight, or of torch's default
    dtype without one.
    """
    nn = package("torch.nn")
    if type(module) is nn.LayerNorm:
        arguments = trailing(module, module.normalized_shape, in_size) | _affine_arguments(module)
        arguments["epsilon"] = module.eps
        return load(LayerNorm(**{**arguments, **options}), _array(module.weight), _array(module.bias))
    if type(module) is nn.RMSNorm:
        arguments = trailing(module, module.normalized_shape, in_size) | {"epsilon": _rms_epsilon(module)}
        return load(RMSNorm(**{**arguments, "use_scale": module.weight is not None, **options}), _array(module.weight))
    if type(module) is nn.GroupNorm:
        arguments = channels_first(module, module.num_channels, in_size) | _affine_arguments(module)
        arguments |= {"num_groups": module.num_groups, "epsilon": module.eps}
        return load(GroupNorm(**{**arguments, **options}), _array(module.weight), _array(module.bias))
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return _from_batch_norm(module, in_size, options)
    unknown(module, (*_SPACES, *KINDS))


@named("to_torch")
def to_torch(layer: Norm) -> Foreign:
    """Build ``torch.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or a batch norm from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm, GroupNorm or BatchNorm
        Ours. LayerNorm and RMSNorm normalize trailing axes with an elementwise scale; GroupNorm and BatchNorm are
        channels-first. A BatchNorm is ``unbiased=True``; without space it becomes a ``BatchNorm1d``.

    Returns
    -------
    torch.nn.Module
        With the same values, and weights in the same dtype; those of a batch norm in the wider of theirs and of its
        running statistics.

    Raises
    ------
    ConversionError
        If the layer has an option that torch lacks, which it names.
    PackageError
        If torch is not installed.
    """
    torch = package("torch")
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm, *BATCH_NORMS):
        unknown(layer, WITH_BATCH)
    if isinstance(layer, BatchNorm):
        return _to_batch_norm(torch, layer)
    target = f"torch.nn.{type(layer).__name__}"
    check_expressible(layer, target)
    scale, bias = weights_of(layer)
    if scale is None and bias is not None:
        lacks(layer, "a bias without a scale", target, "Build the layer with use_scale=True.")
    affine, epsilon = scale is not None, epsilon_of(layer)
    if isinstance(layer, GroupNorm):
        channels = check_channels_first(layer, target)
        module = torch.nn.GroupNorm(layer.num_groups, channels, eps=epsilon, affine=affine, bias=bias is not None)
    else:
        shape = trailing_shape(layer, target)
        extra = {"bias": bias is not None} if isinstance(layer, LayerNorm) else {}
        module = getattr(torch.nn, type(layer).__name__)(shape, eps=epsilon, elementwise_affine=affine, **extra)
    for key, value in (("weight", scale), ("bias", bias)):
        if value is not None:
            tensor = _tensor(torch, value, value.dtype)
            setattr(module, key, torch.nn.Parameter(tensor.reshape(getattr(module, key).shape)))
    return module


def _from_batch_norm(module: Foreign, in_size: Axes | None, options: dict[str, Any]) -> BatchNorm:
    size = sized(module, module.num_features, in_size, _SPACES[type(module).__name__])
    scale, bias, mean, var = map(_array, (module.weight, module.bias, module.running_mean, module.running_var))
    arguments = {"in_size": size, "feature_axis": 0, "epsilon": module.eps, "unbiased": True}
    arguments |= {"track_running_stats": module.track_running_stats, **affine_of(module, scale, bias, options)}
    if module.momentum is not None:
        arguments["momentum"] = 1 - module.momentum
    elif module.track_running_stats and "momentum" not in options:
        what = "has momentum=None, the average of all calls, which ours lacks"
        refuse(type(module).__name__, what, "Pass momentum=0.99, the weight of what was kept.")
    layer = BY_SPACE[len(size) - 1](**{**arguments, **options})
    return load_batch_norm(layer, scale, bias, mean, var)


def _to_batch_norm(torch: Any, layer: BatchNorm) -> Foreign:
    space = check_space(layer, "torch.nn", range(4), first=True)
    kind = f"BatchNorm{max(space, 1)}d"
    made = getattr(torch.nn, kind)
    has_bias = "bias" in inspect.signature(made).parameters  # not before torch 2.13
    check_batch_norm(layer, f"torch.nn.{kind}", unbiased=True, untracked=True, scale_alone=has_bias)
    keys = ("weight", "bias", "running_mean", "running_var")
    values = {k: v for k, v in zip(keys, (*weights_of(layer), *running_values(layer)), strict=True) if v is not None}
    options = {"affine": layer.weight is not None, "track_running_stats": layer.track_running_stats}
    options |= {"bias": "bias" in values} if has_bias else {}
    module = made(layer.in_size[0], epsilon_of(layer), 1 - layer.momentum, **options)
    if values:  # torch takes one dtype for all
        wide = jnp.result_type(*values.values())
        module = module.to(getattr(torch, str(wide)))
        module.load_state_dict({key: _tensor(torch, v, wide).reshape(-1) for key, v in values.items()}, strict=False)
    return module


def _tensor(torch: Any, value: Any, dtype: Any) -> Any:
    return torch.tensor(np.asarray(value, np.float64)).to(getattr(torch, str(dtype)))


def _affine_arguments(module: Foreign) -> dict[str, Any]:
    return {"use_scale": module.weight is not None, "use_bias": module.bias is not None}


def _array(tensor: Any) -> Any:
    """Return a tensor as an array of its dtype (bfloat16 too, which numpy has no name for)."""
    if tensor is None:
        return None
    values = tensor.detach().cpu().double().numpy()
    return jnp.asarray(values.astype(jnp.dtype(str(tensor.dtype).removeprefix("torch."))))


def _rms_epsilon(module: Foreign) -> float:
    if module.eps is not None:
        return float(module.eps)
    torch = package("torch")
    dtype = torch.get_default_dtype() if module.weight is None else module.weight.dtype
    return float(torch.finfo(dtype).eps)
