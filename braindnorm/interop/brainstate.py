"""brainstate.nn's norms, there and back, and our layers in the converters of brainstate itself."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import brainstate
import numpy as np
from brainstate import nn

from .._optional import package
from ..errors import OptionError, named
from ..layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from ._batch_norm import BATCH_NORMS, BY_SPACE, check_batch_norm, load_running, running_values
from ._common import (
    AS_THERE,
    KINDS,
    Foreign,
    Norm,
    check_expressible,
    epsilon_of,
    lacks,
    load,
    state_of,
    unknown,
    weights_of,
)
from ._shapes import check_channels_last
from .equinox import from_equinox, to_equinox
from .flax import from_flax, to_flax, to_linen

__all__ = ["from_brainstate", "register_converters", "to_brainstate"]

NormT = TypeVar("NormT", bound=Norm)
_OURS = {"LayerNorm": LayerNorm, "RMSNorm": RMSNorm, "GroupNorm": GroupNorm}
_OUR_BATCH_NORMS = {kind.__name__: kind for kind in BY_SPACE}
KINDS_THERE = (*_OUR_BATCH_NORMS, *KINDS)
# Options of the same name and meaning there and here.
_SHARED = ("reduction_axes", "epsilon", "use_scale", "axis_name", "axis_index_groups", "use_fast_variance")
_OF_BATCH = ("track_running_stats", "affine", "axis_name", "axis_index_groups", "use_fast_variance")
_AXES = {"LayerNorm": ("feature_axes",), "RMSNorm": ("feature_axes",), "GroupNorm": ("num_groups",)}


@named("from_brainstate")
def from_brainstate(module: Foreign, **options: Any) -> Norm:
    """Build our layer from ``brainstate.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm``, or a batch norm.

    Parameters
    ----------
    module : Module
        The norm.
    **options
        Options of our layer, which win: `unit`, `out_unit`, `masked_output` and so on. Without one, masked positions
        come out as from brainstate (``masked_output='normalize'``).

    Returns
    -------
    LayerNorm, RMSNorm, GroupNorm or BatchNorm0d to BatchNorm3d
        With the same values wherever brainstate's are right. Scale and bias are in `out_unit`, running statistics in
        `unit` and its square. A state of another class than brainstate's default (`param_type`, `mean_type`) goes over
        as it is.

    Raises
    ------
    ConversionError
        If it is of another class.

    Notes
    -----
    brainstate writes its default dtype into every layer, so a `dtype` equal to that default counts as not given.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> from braindnorm.interop import from_brainstate
    >>> from_brainstate(brainstate.nn.RMSNorm(2))(jnp.array([3., 3.])).round(3)
    Array([1., 1.], dtype=float32)
    """
    kind = type(module).__name__
    if kind not in KINDS_THERE or type(module) is not getattr(nn, kind):
        unknown(module, KINDS_THERE)
    arguments: dict[str, Any] = {"in_size": module.in_size, **AS_THERE}
    arguments["dtype"] = None if module.dtype == brainstate.environ.dftype() else module.dtype
    if kind in _OUR_BATCH_NORMS:
        return _from_batch_norm(module, arguments, options)
    arguments |= {key: getattr(module, key) for key in (*_SHARED, *_AXES[kind])}
    if kind != "RMSNorm":
        arguments["use_bias"] = module.use_bias
    layer: Norm = _OURS[kind](**{**arguments, **options})
    return _with_weights(layer, module)


@named("to_brainstate")
def to_brainstate(layer: Norm) -> Foreign:
    """Build ``brainstate.nn.LayerNorm``, ``RMSNorm``, ``GroupNorm`` or a batch norm from our layer.

    Parameters
    ----------
    layer : LayerNorm, RMSNorm, GroupNorm or BatchNorm
        Ours. GroupNorm has one axis, the channels, and reduces all axes but the leading one. BatchNorm has 0 to 3 axes
        of space; brainstate's takes one leading axis at most, and no other lengths than those of `in_size`.

    Returns
    -------
    Module
        With the same values, by the careful variance (``use_fast_variance=False``). A mask does there what
        ``masked_output='normalize'`` does here.

    Raises
    ------
    ConversionError
        If the layer has an option that brainstate lacks, which it names.
    """
    if type(layer) not in (*_OURS.values(), *BATCH_NORMS):
        unknown(layer, ("BatchNorm", *KINDS_THERE))
    if isinstance(layer, BatchNorm):
        return _to_batch_norm(layer)
    kind = type(layer).__name__
    target = f"brainstate.nn.{kind}"
    check_expressible(layer, target, has=("axis_name", "axis_index_groups", "dtype"))
    scale, bias = weights_of(layer)
    options = {key: getattr(layer, key) for key in (*_SHARED, *_AXES[kind], "dtype")} | {"in_size": layer.in_size}
    options |= {"epsilon": epsilon_of(layer), "use_fast_variance": False, "use_scale": scale is not None}
    if isinstance(layer, GroupNorm):
        options["in_size"] = (check_channels_last(layer, target),)
    if not isinstance(layer, RMSNorm):
        options["use_bias"] = bias is not None
    return load(getattr(nn, kind)(**options), scale, bias)


@named("register_converters")
def register_converters(*frameworks: str) -> None:
    """Teach ``brainstate.interop`` our layers, so that its converters take whole models that hold them.

    Afterwards ``brainstate.interop.to_nnx`` and its siblings export our layers, and ``from_nnx`` and its siblings build
    our layers where they would have built brainstate's. A ``GroupNorm`` of equinox is not built: it needs its size.

    Parameters
    ----------
    *frameworks : {'nnx', 'linen', 'equinox'}
        Which; all three without an argument.

    Raises
    ------
    OptionError
        If it is none of the three.
    PackageError
        If one of them is not installed.
    """
    interop = brainstate.interop
    for framework in frameworks or _CONVERTERS:
        if framework not in _CONVERTERS:
            raise OptionError(f"register_converters takes 'nnx', 'linen' and 'equinox'; got {framework!r}.")
        home, build, export = _CONVERTERS[framework]
        foreign = package(home)
        interop.supported_layers(framework)  # brainstate registers its own layers now, and not later over ours
        batch = {} if framework == "equinox" else {"BatchNorm": BatchNorm}  # equinox's has a state besides
        for kind, ours in (_OURS | batch).items():
            interop.register_layer_mapping(interop.LayerMapping(ours, framework, getattr(foreign, kind), build, export))


class _LinenPair(NamedTuple):
    """A linen module and its variables, as brainstate's adapter hands them around."""

    module: Foreign
    variables: Any


_Converter = Callable[[Any, Any], Any]
_CONVERTERS: dict[str, tuple[str, _Converter, _Converter]] = {
    "nnx": ("flax.nnx", lambda module, _: from_flax(module), lambda layer, _: to_flax(layer)),
    "linen": (
        "flax.linen",
        lambda pair, _: from_flax(pair.module, pair.variables),
        lambda layer, _: _LinenPair(*to_linen(layer)),
    ),
    "equinox": ("equinox.nn", lambda module, _: from_equinox(module), lambda layer, _: to_equinox(layer)),
}


def _with_weights(layer: NormT, module: Foreign) -> NormT:
    """Give a layer the scale and bias of brainstate's: the state itself, where it is of a class that users chose."""
    state = state_of(module)
    if state is None or type(state) is _default_state():
        return load(layer, *weights_of(module))
    setattr(layer, "scale" if hasattr(module, "scale") else "weight", state)
    return layer


def _from_batch_norm(module: Foreign, arguments: dict[str, Any], options: dict[str, Any]) -> BatchNorm:
    arguments |= {key: getattr(module, key) for key in _OF_BATCH} | {"feature_axis": module.feature_axes}
    arguments |= {key: _as_written(getattr(module, key)) for key in ("epsilon", "momentum")}
    layer = _OUR_BATCH_NORMS[type(module).__name__](**{**arguments, **options})
    if type(module.running_mean) not in (brainstate.BatchState, type(None)):
        layer.running_mean, layer.running_var = module.running_mean, module.running_var
    return _with_weights(load_running(layer, *running_values(module)), module)


def _to_batch_norm(layer: BatchNorm) -> Foreign:
    space = len(layer.in_size) - 1
    if space >= len(BY_SPACE):
        remedy = "Reshape the input, and build the layer with in_size=channels."
        lacks(layer, f"{space} axes of space in in_size={layer.in_size}", "brainstate.nn", remedy)
    kind = BY_SPACE[space].__name__
    check_batch_norm(layer, f"brainstate.nn.{kind}", unbiased=False, has=("axis_name", "axis_index_groups", "dtype"))
    options = {key: getattr(layer, key) for key in (*_OF_BATCH, "momentum", "dtype")} | {"use_fast_variance": False}
    options |= {"feature_axis": layer.feature_axes, "epsilon": epsilon_of(layer)}
    module = load(getattr(nn, kind)(layer.in_size, **options), *weights_of(layer))
    return load_running(module, *running_values(layer))


def _as_written(number: Any) -> float:
    """Return a number that brainstate rounds to a dtype, as it was written: 0.99, not 0.9900000095."""
    return float(str(np.asarray(number)))


def _default_state() -> type:
    """Return the class of state that brainstate's norms hold by default, which has no public name."""
    return type(nn.LayerNorm(1).weight)
