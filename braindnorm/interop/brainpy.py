"""The norms of brainpy.dnn, there and back."""

from typing import Any

from .._optional import package
from ..errors import named
from ..layers import GroupNorm, LayerNorm
from ._common import Foreign, check_expressible, epsilon_of, lacks, load, unknown, weights_of
from ._shapes import check_channels_last, trailing, trailing_shape

__all__ = ["from_brainpy", "to_brainpy"]


@named("from_brainpy")
def from_brainpy(module: Foreign, **options: Any) -> LayerNorm | GroupNorm:
    """Build our layer from ``brainpy.dnn.LayerNorm``, ``GroupNorm`` or ``InstanceNorm``.

    Parameters
    ----------
    module : brainpy.dnn.Layer
        The norm.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    LayerNorm or GroupNorm
        With the same values; channels are last. Scale and bias are in `out_unit`, and are parameters (to be trained)
        whatever the ``mode`` of the module is.

    Raises
    ------
    ConversionError
        If it is of another class.
    PackageError
        If brainpy is not installed.
    """
    dnn = package("brainpy").dnn
    arguments: dict[str, Any]
    if type(module) is dnn.LayerNorm:
        learn, arguments = module.elementwise_affine, trailing(module.normalized_shape)
    elif type(module) in (dnn.GroupNorm, dnn.InstanceNorm):
        learn, arguments = module.affine, {"in_size": module.num_channels, "num_groups": module.num_groups}
    else:
        unknown(module, ("GroupNorm", "InstanceNorm", "LayerNorm"))
    arguments |= {"epsilon": module.epsilon, "use_scale": learn, "use_bias": learn}
    layer = (LayerNorm if type(module) is dnn.LayerNorm else GroupNorm)(**{**arguments, **options})
    return load(layer, module.scale.value, module.bias.value) if learn else layer


@named("to_brainpy")
def to_brainpy(layer: LayerNorm | GroupNorm) -> Foreign:
    """Build ``brainpy.dnn.LayerNorm`` or ``GroupNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm or GroupNorm
        Ours. LayerNorm normalizes trailing axes with an elementwise scale and bias; GroupNorm is channels-last and
        reduces all axes but the leading one.

    Returns
    -------
    brainpy.dnn.Layer
        With the same values, in the mode that is brainpy's default now.

    Raises
    ------
    ConversionError
        If the layer has an option that brainpy lacks, which it names; it has no RMSNorm.
    PackageError
        If brainpy is not installed.
    """
    dnn = package("brainpy").dnn
    if type(layer) not in (LayerNorm, GroupNorm):
        unknown(layer, ("GroupNorm", "LayerNorm"))
    target = f"brainpy.dnn.{type(layer).__name__}"
    check_expressible(layer, target)
    scale, bias = weights_of(layer)
    if (scale is None) != (bias is None):
        remedy = "Build the layer with both or with neither."
        lacks(layer, "one of scale and bias without the other", target, remedy)
    learn, epsilon = scale is not None, epsilon_of(layer)
    if isinstance(layer, GroupNorm):
        channels = check_channels_last(layer, target)
        module = dnn.GroupNorm(layer.num_groups, channels, epsilon=epsilon, affine=learn)
    else:
        shape = trailing_shape(layer, target)
        module = dnn.LayerNorm(shape, epsilon=epsilon, elementwise_affine=learn)
    if scale is not None and bias is not None:
        module.scale.value, module.bias.value = scale.reshape(module.scale.shape), bias.reshape(module.bias.shape)
    return module
