"""equinox.nn's norms, there and back. They see one example at a time; ours take any leading axes."""

from typing import Any

import jax.numpy as jnp

from .._numerics.axes import Axes
from .._optional import package
from ..errors import named
from ..layers import GroupNorm, LayerNorm, RMSNorm
from ._common import KINDS, Foreign, Norm, check_expressible, epsilon_of, lacks, load, refuse, unknown, weights_of
from ._shapes import channels_first, check_channels_first, trailing, trailing_shape

__all__ = ["from_equinox", "to_equinox"]


@named("from_equinox")
def from_equinox(module: Foreign, in_size: Axes | None = None, **options: Any) -> Norm:
    """Build our layer from ``equinox.nn.LayerNorm``, ``RMSNorm`` or ``GroupNorm``.

    Parameters
    ----------
    module : equinox.Module
        The norm.
    in_size : int or sequence of int, optional
        The size of the input, ``(channels, height, width)``. A ``GroupNorm`` needs it, for it does not know how many
        axes of space there are; the others have it in their ``shape``.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    LayerNorm, RMSNorm or GroupNorm
        With the same values: what needs ``jax.vmap`` there is called as it is. Scale and bias are in `out_unit`.

    Raises
    ------
    ConversionError
        If it is of another class, an ``RMSNorm`` has a bias that is not 0, or a ``GroupNorm`` comes without `in_size`.
    PackageError
        If equinox is not installed.
    """
    nn = package("equinox.nn")
    if type(module) is nn.GroupNorm:
        arguments = channels_first(module, module.channels, in_size)
        arguments |= {"num_groups": module.groups, "epsilon": module.eps}
        arguments |= dict.fromkeys(("use_scale", "use_bias"), module.channelwise_affine)
        return load(GroupNorm(**{**arguments, **options}), module.weight, module.bias)
    if type(module) is nn.LayerNorm:
        arguments = trailing(module.shape) | {"epsilon": module.eps}
        arguments |= {"use_scale": module.use_weight, "use_bias": module.use_bias}
        return load(LayerNorm(**{**arguments, **options}), module.weight, module.bias)
    if type(module) is nn.RMSNorm:
        if module.use_bias and bool(jnp.any(module.bias != 0)):
            refuse("RMSNorm", "has a bias that is not 0, which ours lacks", "Add it after the norm.")
        arguments = trailing(module.shape) | {"epsilon": module.eps, "use_scale": module.use_weight}
        return load(RMSNorm(**{**arguments, **options}), module.weight)
    unknown(module, KINDS)


@named("to_equinox")
def to_equinox(layer: Norm) -> Foreign:
    """Build ``equinox.nn.LayerNorm``, ``RMSNorm`` or ``GroupNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm or GroupNorm
        Ours. LayerNorm and RMSNorm normalize trailing axes with an elementwise scale; GroupNorm is channels-first.

    Returns
    -------
    equinox.Module
        With the same values on one example; use ``jax.vmap`` for leading axes.

    Raises
    ------
    ConversionError
        If the layer has an option that equinox lacks, which it names.
    PackageError
        If equinox is not installed.
    """
    eqx = package("equinox")
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm):
        unknown(layer, KINDS)
    kind = type(layer).__name__
    target = f"equinox.nn.{kind}"
    check_expressible(layer, target)
    scale, bias = weights_of(layer)
    if isinstance(layer, GroupNorm):
        channels = check_channels_first(layer, target)
        if (scale is None) != (bias is None):
            remedy = "Build the layer with both or with neither."
            lacks(layer, "one of scale and bias without the other", target, remedy)
        affine = {"channelwise_affine": scale is not None}
        module = eqx.nn.GroupNorm(layer.num_groups, channels, eps=epsilon_of(layer), **affine)
    else:
        shape = trailing_shape(layer, target)
        learn = {"use_weight": scale is not None, "use_bias": bias is not None}
        module = getattr(eqx.nn, kind)(shape, eps=epsilon_of(layer), **learn)
    for key, value in (("weight", scale), ("bias", bias)):
        if value is not None:
            old = getattr(module, key)
            module = eqx.tree_at(lambda m, key=key: getattr(m, key), module, value.reshape(old.shape))
    return module
