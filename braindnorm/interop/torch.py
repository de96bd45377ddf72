"""torch.nn's norms, there and back."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes
from .._optional import package
from ..errors import named
from ..layers import GroupNorm, LayerNorm, RMSNorm
from ._common import KINDS, Foreign, Norm, check_expressible, epsilon_of, lacks, load, unknown, weights_of
from ._shapes import channels_first, check_channels_first, trailing, trailing_shape

__all__ = ["from_torch", "to_torch"]


@named("from_torch")
def from_torch(module: Foreign, in_size: Axes | None = None, **options: Any) -> Norm:
    """Build our layer from ``torch.nn.LayerNorm``, ``RMSNorm`` or ``GroupNorm``.

    Parameters
    ----------
    module : torch.nn.Module
        The norm.
    in_size : int or sequence of int, optional
        The size of the input without its batch axes: ``(channels, height, width)``. A ``GroupNorm`` needs it, for it
        does not know how many axes of space there are; the others have it in their ``normalized_shape``.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    LayerNorm, RMSNorm or GroupNorm
        With the same values, and scale and bias in the same dtype. Their unit is `out_unit`.

    Raises
    ------
    ConversionError
        If it is of another class, or a ``GroupNorm`` comes without `in_size`.
    PackageError
        If torch is not installed.

    Notes
    -----
    ``RMSNorm(eps=None)`` takes the spacing of the input's numbers; ours takes that of its weight, or of torch's default
    dtype without one.
    """
    nn = package("torch.nn")
    if type(module) is nn.LayerNorm:
        arguments = trailing(module.normalized_shape) | {"epsilon": module.eps, **_affine_arguments(module)}
        return load(LayerNorm(**{**arguments, **options}), _array(module.weight), _array(module.bias))
    if type(module) is nn.RMSNorm:
        arguments = trailing(module.normalized_shape) | {"epsilon": _rms_epsilon(module)}
        return load(RMSNorm(**{**arguments, "use_scale": module.weight is not None, **options}), _array(module.weight))
    if type(module) is nn.GroupNorm:
        arguments = channels_first(module, module.num_channels, in_size) | _affine_arguments(module)
        arguments |= {"num_groups": module.num_groups, "epsilon": module.eps}
        return load(GroupNorm(**{**arguments, **options}), _array(module.weight), _array(module.bias))
    unknown(module, KINDS)


@named("to_torch")
def to_torch(layer: Norm) -> Foreign:
    """Build ``torch.nn.LayerNorm``, ``RMSNorm`` or ``GroupNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm or GroupNorm
        Ours. LayerNorm and RMSNorm normalize trailing axes with an elementwise scale; GroupNorm is channels-first.

    Returns
    -------
    torch.nn.Module
        With the same values, and weights in the same dtype.

    Raises
    ------
    ConversionError
        If the layer has an option that torch lacks, which it names.
    PackageError
        If torch is not installed.
    """
    torch = package("torch")
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm):
        unknown(layer, KINDS)
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
            tensor = torch.tensor(np.asarray(value, np.float64)).to(getattr(torch, str(value.dtype)))
            setattr(module, key, torch.nn.Parameter(tensor.reshape(getattr(module, key).shape)))
    return module


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
