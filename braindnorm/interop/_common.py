"""What every converter does: refuse what the other package lacks, and hand the weights over."""

from collections.abc import Collection
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState, nn

from .. import units
from .._numerics.axes import as_size
from ..errors import ConversionError
from ..layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from ..layers._affine import is_plain, weight_name
from ..units import Mantissa, Shape

Norm = LayerNorm | RMSNorm | GroupNorm | BatchNorm
# a module of another package: no type of it is known where the package is not installed
Foreign = Any
LayerT = TypeVar("LayerT", bound=nn.Module)
KINDS = ("GroupNorm", "LayerNorm", "RMSNorm")
WITH_BATCH = ("BatchNorm", *KINDS)
# brainstate's and flax's norms give values at masked positions too, and what is converted keeps them.
AS_THERE = {"masked_output": "normalize"}

# What other packages may lack; None asks nothing of them.
_OPTIONS = ("unit", "out_unit", "axis_name", "axis_index_groups", "dtype", "param_steps", "running_steps", "gain_steps")


def state_of(layer: Norm | Foreign) -> ParamState | None:
    """Return the state with the scale and bias of a norm, ours or brainstate's; None if it learns nothing."""
    state: ParamState | None = getattr(layer, weight_name(layer))
    return state


def weights_of(layer: Norm | Foreign) -> tuple[jax.Array | None, jax.Array | None]:
    """Return scale and bias as arrays, None for what there is not."""
    state = state_of(layer)
    weights: dict[str, jax.Array] = {} if state is None else state.value
    return weights.get("scale"), weights.get("bias")


def load(layer: LayerT, scale: Mantissa | None = None, bias: Mantissa | None = None) -> LayerT:
    """Put scale and bias into a norm, in its shapes and in their own dtype, and return it."""
    state = state_of(layer)
    if state is not None:
        weights: dict[str, jax.Array] = dict(state.value)
        for key, new in (("scale", scale), ("bias", bias)):
            if key in weights and new is not None:
                weights[key] = _spread(jnp.asarray(new), weights[key].shape, len(as_size(layer.in_size)))
        state.value = weights
    return layer


def _spread(weight: jax.Array, shape: Shape, ndim: int) -> jax.Array:
    """Return a weight in the shape that a layer keeps it in: with `param_steps`, once for every step."""
    return jnp.broadcast_to(weight.reshape(shape[-ndim:]), shape)


def epsilon_of(layer: Norm) -> float:
    """Return epsilon as a plain number, which :func:`check_expressible` found it to be."""
    return float(np.asarray(units.strip(layer.epsilon, None)[0]))


def refuse(kind: str, what: str, remedy: str) -> NoReturn:
    """Raise the one error of this room: what cannot be converted, and what to do."""
    raise ConversionError(f"{kind} {what}. {remedy}")


def unknown(layer: object, taken: Collection[str]) -> NoReturn:
    """Raise for a layer of a class that has no counterpart."""
    refuse(
        f"takes {', '.join(sorted(taken))};",
        f"got {type(layer).__module__}.{type(layer).__name__}",
        "A subclass may compute something else, so it is not converted: convert its parts.",
    )


def check_expressible(layer: Norm, target: str, *, has: Collection[str] = ()) -> None:
    """Raise if the layer has an option that the target lacks.

    Parameters
    ----------
    layer : Module
        A layer of ours.
    target : str
        What the error calls the target.
    has : collection of str
        The options that the target has, and may have any value of.

    Raises
    ------
    ConversionError
        Naming the option.
    """
    for option in _OPTIONS:
        value = getattr(layer, option, None)
        if value is not None and option not in has:
            lacks(layer, f"{option}={value}", target, f"Build the layer with {option}=None.")
    if layer.stop_statistics_gradient:
        remedy = "Build the layer with stop_statistics_gradient=False."
        lacks(layer, "stop_statistics_gradient=True", target, remedy)
    if layer.masked_output == "input":  # the other two give the same wherever nothing is masked
        lacks(layer, "masked_output=input", target, "Build the layer with masked_output='normalize'.")
    state = state_of(layer)
    if state is not None and not is_plain(type(state)):
        lacks(layer, f"param_type={type(state).__name__}", target, "Build the layer with the default param_type.")
    if not units.strip(layer.epsilon, None)[1].is_unitless:
        lacks(layer, f"a unit in epsilon={layer.epsilon}", target, "Give epsilon as a plain number.")


def lacks(layer: object, what: str, target: str, remedy: str) -> NoReturn:
    """Raise for an option of a layer of ours that the target lacks."""
    refuse(type(layer).__name__, f"has {what}, which {target} lacks", remedy)
