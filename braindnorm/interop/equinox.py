"""equinox.nn's norms, there and back. They see one example at a time; ours take any leading axes."""

from typing import Any

import jax.numpy as jnp

from .._numerics.axes import Axes
from .._optional import package
from ..errors import named
from ..layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from ._batch_norm import BATCH_NORMS, check_batch_norm, check_space, load_batch_norm, running_values
from ._common import WITH_BATCH, Foreign, Norm, check_expressible, epsilon_of, lacks, load, refuse, unknown, weights_of
from ._shapes import channels_first, check_channels_first, trailing, trailing_shape

__all__ = ["from_equinox", "to_equinox"]

# equinox corrects running statistics for their start, by 1 - momentum^updates: not to be seen below this share, nor
# after so many updates
_NEGLIGIBLE, _TRAINED = 1e-8, 2**30


@named("from_equinox")
def from_equinox(module: Foreign, in_size: Axes | None = None, state: Foreign = None, **options: Any) -> Norm:
    """Build our layer from ``equinox.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or ``BatchNorm``.

    Parameters
    ----------
    module : equinox.Module
        The norm.
    in_size : int or sequence of int, optional
        The size of the input, ``(channels, height, width)``. A ``GroupNorm`` and a ``BatchNorm`` need it, for they do
        not know how many axes of space there are; the others have it in their ``shape``, with which it ends if it is
        given.
    state : equinox.nn.State, optional
        What holds the running statistics of a ``BatchNorm``.
    **options
        Options of our layer: `unit`, `out_unit`, `masked_output` and so on.

    Returns
    -------
    LayerNorm, RMSNorm, GroupNorm or BatchNorm
        With the same values: what needs ``jax.vmap`` there is called as it is. Scale and bias are in `out_unit`,
        running statistics in `unit` and its square.

    Raises
    ------
    ConversionError
        If it is of another class, an ``RMSNorm`` has a bias that is not 0, `in_size` does not fit, or it or `state` is
        missing where it is needed. A ``BatchNorm`` with ``mode='ema'``, or whose first updates equinox still corrects
        for the start, trains in a way that ours lacks: its statistics go over with ``frozen=True`` or a `momentum`.
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
        arguments = trailing(module, module.shape, in_size) | {"epsilon": module.eps}
        arguments |= {"use_scale": module.use_weight, "use_bias": module.use_bias}
        return load(LayerNorm(**{**arguments, **options}), module.weight, module.bias)
    if type(module) is nn.RMSNorm:
        if module.use_bias and bool(jnp.any(module.bias != 0)):
            refuse("RMSNorm", "has a bias that is not 0, which ours lacks", "Add it after the norm.")
        arguments = trailing(module, module.shape, in_size) | {"epsilon": module.eps, "use_scale": module.use_weight}
        return load(RMSNorm(**{**arguments, **options}), module.weight)
    if type(module) is nn.BatchNorm:
        return _from_batch_norm(module, in_size, state, options)
    unknown(module, WITH_BATCH)


@named("to_equinox")
def to_equinox(layer: Norm) -> Foreign:
    """Build ``equinox.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or ``BatchNorm`` from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm, GroupNorm or BatchNorm
        Ours. LayerNorm and RMSNorm normalize trailing axes with an elementwise scale; GroupNorm and BatchNorm are
        channels-first.

    Returns
    -------
    equinox.Module
        With the same values on one example; use ``jax.vmap`` for leading axes. From a BatchNorm a pair of module and
        state, with ``mode='batch'`` and ``axis_name='batch'``, which the ``jax.vmap`` has to name.

    Raises
    ------
    ConversionError
        If the layer has an option that equinox lacks, which it names.
    PackageError
        If equinox is not installed.
    """
    eqx = package("equinox")
    if type(layer) not in (LayerNorm, RMSNorm, GroupNorm, *BATCH_NORMS):
        unknown(layer, WITH_BATCH)
    if isinstance(layer, BatchNorm):
        return _to_batch_norm(eqx, layer)
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
    return _with_weights(eqx, module, scale, bias)


def _with_weights(eqx: Any, module: Foreign, scale: Any, bias: Any) -> Foreign:
    for key, value in (("weight", scale), ("bias", bias)):
        if value is not None:
            old = getattr(module, key)
            module = eqx.tree_at(lambda m, key=key: getattr(m, key), module, value.reshape(old.shape))
    return module


def _from_batch_norm(module: Foreign, in_size: Axes | None, state: Foreign, options: dict[str, Any]) -> BatchNorm:
    if state is None:
        refuse("BatchNorm", "keeps its statistics in a state", "Pass it: from_equinox(module, in_size, state).")
    if module.mode == "ema":
        unlike, (mean, var) = "mode='ema', which trains by its running statistics", state.get(module.ema_state_index)
    else:
        updates, (mean, var) = int(state.get(module.batch_counter)), state.get(module.batch_state_index)
        left = module.momentum**updates if updates else 0.0
        mean, var = mean / (1 - left), var / (1 - left)
        unlike = f"statistics that it still corrects for the start ({updates} updates)"
        unlike = unlike if module.momentum**updates > _NEGLIGIBLE else ""
    if unlike and not options.get("frozen") and "momentum" not in options:
        remedy = f"Pass frozen=True to evaluate by them alone, or momentum={module.momentum} to go on in our way."
        refuse("BatchNorm", f"has {unlike}, which ours lacks", remedy)
    arguments = {"in_size": channels_first(module, module.input_size, in_size)["in_size"], "feature_axis": 0}
    arguments |= {"epsilon": module.eps, "momentum": module.momentum, "affine": module.channelwise_affine}
    return load_batch_norm(BatchNorm(**{**arguments, **options}), module.weight, module.bias, mean, var)


def _to_batch_norm(eqx: Any, layer: BatchNorm) -> tuple[Foreign, Foreign]:
    target = "equinox.nn.BatchNorm"
    check_batch_norm(layer, target, unbiased=False)
    check_space(layer, target, range(len(layer.in_size)), first=True)
    if layer.momentum == 1:
        lacks(layer, "momentum=1.0", target, "Build the layer with a momentum below 1.")
    affine = {"channelwise_affine": layer.weight is not None}
    options = {"eps": epsilon_of(layer), "momentum": layer.momentum, "mode": "batch", **affine}
    module, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(layer.in_size[0], "batch", **options)
    state = state.set(module.batch_state_index, tuple(v.reshape(-1) for v in running_values(layer) if v is not None))
    state = state.set(module.batch_counter, jnp.array(_TRAINED))
    return _with_weights(eqx, module, *weights_of(layer)), state
