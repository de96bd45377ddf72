"""The norms of brainpy.dnn, there and back."""

from typing import Any

from .._optional import package
from ..errors import named
from ..layers import BatchNorm, GroupNorm, LayerNorm
from ._batch_norm import BATCH_NORMS, check_batch_norm, check_space, load_batch_norm, running_values
from ._common import Foreign, check_expressible, epsilon_of, lacks, load, refuse, unknown, weights_of
from ._shapes import check_channels_last, trailing, trailing_shape

__all__ = ["from_brainpy", "to_brainpy"]

_BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@named("from_brainpy")
def from_brainpy(module: Foreign, **options: Any) -> LayerNorm | GroupNorm | BatchNorm:
    """Build our layer from ``brainpy.dnn.LayerNorm``, ``GroupNorm``, ``InstanceNorm``, or its batch norms.

    Parameters
    ----------
    module : brainpy.dnn.Layer
        The norm.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on. With an `in_size`, ``(height, width,
        channels)``, a batch norm remembers its axes of space.

    Returns
    -------
    LayerNorm, GroupNorm or BatchNorm
        With the same values; channels are last. Scale and bias are in `out_unit`, and are parameters (to be trained)
        whatever the ``mode`` of the module is. A batch norm has ``unbiased=True``.

    Raises
    ------
    ConversionError
        If it is of another class, an `in_size` does not end with the axes that a LayerNorm normalizes, or a batch norm
        reduces other axes than all but the channels, or has an `axis_name`.
    PackageError
        If brainpy is not installed.
    """
    dnn = package("brainpy").dnn
    arguments: dict[str, Any]
    if type(module) is dnn.LayerNorm:
        learn = module.elementwise_affine
        arguments = trailing(module, module.normalized_shape, options.pop("in_size", None))
    elif type(module) in (dnn.GroupNorm, dnn.InstanceNorm):
        learn, arguments = module.affine, {"in_size": module.num_channels, "num_groups": module.num_groups}
    else:
        return _from_batch_norm(module, options)
    arguments |= {"epsilon": module.epsilon, "use_scale": learn, "use_bias": learn}
    layer = (LayerNorm if type(module) is dnn.LayerNorm else GroupNorm)(**{**arguments, **options})
    return load(layer, module.scale.value, module.bias.value) if learn else layer


@named("to_brainpy")
def to_brainpy(layer: LayerNorm | GroupNorm | BatchNorm) -> Foreign:
    """Build ``brainpy.dnn.LayerNorm``, ``GroupNorm`` or a batch norm from our layer.

    Parameters
    ----------
    layer : LayerNorm, GroupNorm or BatchNorm
        Ours. LayerNorm normalizes trailing axes with an elementwise scale and bias; GroupNorm is channels-last and
        reduces all axes but the leading one; BatchNorm is channels-last and ``unbiased=True``, and becomes a
        ``BatchNorm1d`` without space, or by its axes of space.

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
    if type(layer) not in (LayerNorm, GroupNorm, *BATCH_NORMS):
        unknown(layer, ("BatchNorm", "GroupNorm", "LayerNorm"))
    if isinstance(layer, BatchNorm):
        return _to_batch_norm(dnn, layer)
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


def _from_batch_norm(module: Foreign, options: dict[str, Any]) -> BatchNorm:
    dnn = package("brainpy").dnn
    if type(module) not in [getattr(dnn, kind) for kind in _BATCH_NORMS]:
        unknown(module, (*_BATCH_NORMS, "GroupNorm", "InstanceNorm", "LayerNorm"))
    kind, space = type(module).__name__, int(type(module).__name__[-2])
    if sorted(axis % (space + 2) for axis in module.axis) != list(range(space + 1)):
        remedy = f"Ours reduces all axes but the channels: axis={tuple(range(space + 1))}."
        refuse(kind, f"reduces axis={tuple(module.axis)}, which ours lacks", remedy)
    if module.axis_name is not None:
        what = f"has axis_name={module.axis_name}, whose devices it does not weight by their elements, as ours does"
        refuse(kind, what, "Build it without one, and pass axis_name to from_brainpy.")
    arguments = {"in_size": module.num_features, "epsilon": module.epsilon, "momentum": module.momentum}
    arguments |= {"affine": module.affine, "unbiased": True}
    scale, bias = (module.scale.value, module.bias.value) if module.affine else (None, None)
    layer = BatchNorm(**{**arguments, **options})
    return load_batch_norm(layer, scale, bias, module.running_mean.value, module.running_var.value)


def _to_batch_norm(dnn: Any, layer: BatchNorm) -> Foreign:
    space = check_space(layer, "brainpy.dnn", range(4), first=False)
    kind = f"BatchNorm{max(space, 1)}d"
    check_batch_norm(layer, f"brainpy.dnn.{kind}", unbiased=True)
    options = {"momentum": layer.momentum, "affine": layer.weight is not None}
    module = getattr(dnn, kind)(layer.in_size[-1], epsilon=epsilon_of(layer), **options)
    keys = ("scale", "bias", "running_mean", "running_var")
    for key, value in zip(keys, (*weights_of(layer), *running_values(layer)), strict=True):
        if value is not None:
            getattr(module, key).value = value.reshape(-1)
    return module
