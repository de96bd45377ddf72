"""The learned scale and bias of a layer: how they are made, and how they are applied."""

from collections.abc import Mapping
from typing import Any, NoReturn, Self, overload

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState

from .. import units
from .._numerics.axes import feature_shape
from ..errors import AxisError, DtypeError, OptionError
from ..functional._dtypes import result_dtype
from ..units import Mantissa, QuantityLike, Result, Shape, Unit
from ._norm import AffineModule
from ._per_step import at_step
from ._warn import warn_user
from ._wiring import label


class NormParam(ParamState):
    """The scale and bias of a norm, ``{'scale': ..., 'bias': ...}``, as plain arrays in the output's unit.

    A subclass whose ``execute`` does more (online learning, a constraint) goes to a layer as ``param_type``.
    """

    def execute(self, x: jax.Array) -> jax.Array:
        """Return ``x * scale + bias``, with what there is of the two."""
        parameters: dict[str, jax.Array] = self.value
        for key, apply in (("scale", jnp.multiply), ("bias", jnp.add)):
            if key in parameters:
                x = apply(x, parameters[key])
        return x


class ReadOut:
    """The scale or the bias of a layer with its unit, to read: None if the layer has none.

    A plain array where neither `out_unit` nor `unit` is declared: it is then expressed in the unit that arrives.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    @overload
    def __get__(self, layer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, layer: AffineModule, owner: type) -> Result | None: ...
    def __get__(self, layer: AffineModule | None, owner: type) -> Self | Result | None:
        if layer is None:
            return self
        state = getattr(layer, weight_name(layer))
        value = None if state is None else state.value.get(self.key)
        unit = layer.unit if layer.out_unit is None else layer.out_unit
        return value if value is None or unit is None else units.restore(value, unit)


def weight_name(layer: object) -> str:
    """Return the attribute that holds the state with scale and bias, as in brainstate: an RMSNorm has a scale alone."""
    return "scale" if "scale" in vars(layer) else "weight"


def explain_missing(layer: object, name: str) -> NoReturn:
    """Raise for an attribute that a layer lacks (its ``__getattr__``), and say where scale and bias are."""
    message = f"{type(layer).__name__!r} object has no attribute {name!r}"
    places = {"weight": ("scale", "bias"), "scale": ("scale", "weight")}
    holder = weight_name(layer)
    if name in places[holder] and holder in vars(layer):
        key = "scale" if name == "weight" else name
        message += (
            f". Write .{holder}.value[{key!r}] for the plain array in out_unit, and .{key}_quantity for the same with"
            " its unit."
        )
    raise AttributeError(message, obj=layer)


def make_affine(
    layer: AffineModule, param_type: type[ParamState], learn: Mapping[str, bool], out_unit: Unit | None
) -> tuple[ParamState | None, Unit | None]:
    """Initialize the scale and bias of a layer.

    Parameters
    ----------
    layer : Module
        Their owner, with `in_size`, `feature_axes`, `param_steps` and an initializer ``<key>_init`` for each.
    param_type : type
        The state that holds them.
    learn : dict of str to bool
        Which there are.
    out_unit : Unit or None
        The declared unit of the output.

    Returns
    -------
    tuple
        The state (None without parameters), and the unit of the output (None if nothing sets one).
    """
    for key, wanted in learn.items():
        if not isinstance(wanted, bool | np.bool_):
            raise OptionError(f"use_{key} must be True or False; got {wanted!r}.")
    _check_param_type(param_type)
    shape = feature_shape(layer.in_size, layer.feature_axes)
    if layer.param_steps is not None:
        shape = (layer.param_steps, *shape)
        if not is_plain(param_type):
            raise OptionError(
                f"param_steps={layer.param_steps} takes the parameters of each step apart, which"
                f" {param_type.__name__}.execute does not handle. Use NormParam, or param_steps=None."
            )
    initial = {key: _initial(layer, key, shape) for key, wanted in learn.items() if wanted}
    plain, out_unit = units.strip_parameters(initial, units.check_unit(out_unit, option="out_unit"))
    if (scale := plain.get("scale")) is not None:
        _warn_of_a_negative_scale(scale, out_unit, layer)
    return (param_type({key: _real(v, key) for key, v in plain.items()}) if plain else None), out_unit


def _check_param_type(param_type: object) -> None:
    if not (isinstance(param_type, type) and issubclass(param_type, ParamState) and hasattr(param_type, "execute")):
        raise OptionError(
            "param_type must be a class of ParamState with execute(z), such as NormParam, or a subclass of it; got"
            f" {param_type!r}."
        )


def _warn_of_a_negative_scale(scale: Mantissa, unit: Unit | None, layer: AffineModule) -> None:
    value = None if jnp.iscomplexobj(scale) else units.known(scale)
    if value is None or not (value < 0).all():
        return
    first = f"{value.flat[0]}" if unit is None else f"{value.flat[0]} {unit}"
    warn_user(
        f"{label(layer)}: the initial scale is negative everywhere (the first is {first}), so what is above the mean"
        " comes out below it. For a threshold-dependent scale write Constant(alpha * (V_th - V_rest)): V_th itself is"
        " usually negative, its distance from rest is not."
    )


def affine_arguments(layer: AffineModule, weight: ParamState | None, x: QuantityLike) -> dict[str, Any]:
    """Return the parameters of a layer as arguments of a functional norm of `x`.

    Scale and bias themselves where ``execute`` is the plain one, so that they can be fused with the norm; else the
    state, whose ``execute`` is called.
    """
    if weight is None:
        return {}
    if not is_plain(type(weight)):
        return {"affine": weight}
    if layer.param_steps is None:
        return dict(weight.value)
    return at_step(weight.value, layer.param_steps, layer.in_size, x)


def is_plain(param_type: type[ParamState]) -> bool:
    """Tell whether the `execute` of a state is that of :class:`NormParam`: scale and bias, and nothing else."""
    return getattr(param_type, "execute") is NormParam.execute  # noqa: B009  (ParamState itself declares none)


def check_features(layer: AffineModule, x: QuantityLike, weight: brainstate.State[Any] | None) -> None:
    """Raise unless every feature axis of `x` is as long as the parameters' is now, or as `in_size` without parameters.

    The parameters are compared before `in_size`: inside a shard both they and the input are shorter than the whole. The
    other axes may be of any length: images of another size, shorter sequences.

    Raises
    ------
    AxisError
        Showing both lengths.
    """
    shape = units.shape_of(x)
    parameter = None if weight is None else jax.tree.leaves(weight.value)[0].shape
    for axis in layer.feature_axes:
        right, whole = axis - len(layer.in_size), layer.in_size[axis]
        there = shape[right] if -right <= len(shape) else None
        if there == (whole if parameter is None else parameter[right]):
            continue
        if parameter is not None or not _may_be_a_part(layer, right, there, len(shape)):
            raise AxisError(_other_features(layer, right, shape, None if parameter is None else parameter[right]))


def _may_be_a_part(layer: AffineModule, right: int, there: int | None, ndim: int) -> bool:
    """Tell whether so many features may be what a device (or a lane of vmap) holds of them all, and be normalized so.

    They may where other features do not matter: the statistics are summed over the devices, or they do not run over
    this axis, or run over groups of its channels.
    """
    whole = layer.in_size[right]
    if there is None or there == 0 or whole % there:
        return there is None
    if layer.axis_name is not None or hasattr(layer, "group_size"):
        return True
    return right not in {axis if axis < 0 else axis - ndim for axis in layer.reduction_axes or ()}


def _other_features(layer: AffineModule, right: int, shape: Shape, parameter: int | None) -> str:
    long = layer.in_size[right] if parameter is None else parameter
    why = "as in_size says" if parameter is None else "as scale and bias are"
    message = f"axis {right} of the input must be {long} long, {why}; got an input of shape {shape}."
    mapped = getattr(jax.sharding.get_abstract_mesh(), "manual_axes", ())
    if parameter == layer.in_size[right] and -right <= len(shape) and mapped:
        state = "scale" if hasattr(layer, "scale") else "weight"
        axes = ", ".join(repr(mapped[0]) if axis == right else "None" for axis in range(-len(layer.in_size), 0))
        return (
            f"{message} Inside shard_map the parameters are whole unless they are sharded too: write shard_map(...,"
            f" state_in_specs={{norm.{state}: PartitionSpec({axes})}}) if that axis is sharded over {mapped[0]!r}."
        )
    return f"{message} Check in_size and the feature axes, or reshape the input."


def _real(value: Mantissa | None, key: str) -> jax.Array:
    """Return a parameter that can be differentiated, of a type of its own: an optimizer step must not change it."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DtypeError(f"{key}_init makes a complex {key}, for which norms are not defined. Make it real.")
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if floating:
        result_dtype([array], None)
    return array.astype(array.dtype if floating else brainstate.environ.dftype())


def _initial(layer: AffineModule, key: str, shape: Shape) -> QuantityLike:
    option = f"{key}_init" if hasattr(layer, f"{key}_init") else f"{key}_initializer"  # as a batch norm calls it
    init = getattr(layer, option)
    try:
        value: QuantityLike = brainstate.nn.init.param(init, shape, allow_none=False)
        mantissa, unit = units.strip(value, None)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{option}={init!r} does not make a parameter of shape {shape}: {str(error).strip()} Give an"
            " initializer of brainstate.nn.init, an array, a number or a quantity."
        ) from error
    if jnp.ndim(mantissa) == 0:
        return units.restore(jnp.full(shape, mantissa), unit)
    if jnp.shape(mantissa) != shape:
        raise OptionError(f"{option} made shape {jnp.shape(mantissa)}, but scale and bias have {shape}.")
    return value
