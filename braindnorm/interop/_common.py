"""What every converter does: refuse what the other package lacks, and hand the weights over."""

from collections.abc import Collection
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from .. import units
from ..errors import ConversionError
from ..layers import GroupNorm, LayerNorm, NormParam, RMSNorm

Norm = LayerNorm | RMSNorm | GroupNorm
KINDS = ("GroupNorm", "LayerNorm", "RMSNorm")
# brainstate's and flax's norms give values at masked positions too, and what is converted keeps them.
AS_THERE = {"masked_output": "normalize"}

# What other packages may lack; None asks nothing of them.
_OPTIONS = ("unit", "out_unit", "axis_name", "axis_index_groups", "dtype", "param_steps")


def state_of(layer: Any) -> Any:
    """Return the state with the scale and bias of a norm, ours or brainstate's; None if it learns nothing."""
    return layer.weight if hasattr(layer, "weight") else layer.scale


def weights_of(layer: Any) -> tuple[Any, Any]:
    """Return scale and bias as arrays, None for what there is not."""
    state = state_of(layer)
    weights = {} if state is None else state.value
    return weights.get("scale"), weights.get("bias")


def load(layer: Any, scale: Any = None, bias: Any = None) -> Any:
    """Put scale and bias into a norm, in its shapes and in their own dtype, and return it."""
    state = state_of(layer)
    given = {"scale": scale, "bias": bias}
    if state is not None:
        state.value = {
            key: old if given[key] is None else _spread(jnp.asarray(given[key]), old.shape, len(layer.in_size))
            for key, old in state.value.items()
        }
    return layer


def _spread(weight: jax.Array, shape: tuple[int, ...], ndim: int) -> jax.Array:
    """Return a weight in the shape that a layer keeps it in: with `param_steps`, once for every step."""
    return jnp.broadcast_to(weight.reshape(shape[-ndim:]), shape)


def epsilon_of(layer: Any) -> float:
    """Return epsilon as a plain number, which :func:`check_expressible` found it to be."""
    return float(layer.epsilon)


def refuse(call: str, kind: str, what: str, remedy: str) -> NoReturn:
    """Raise the one error of this package: what cannot be converted, and what to do."""
    raise ConversionError(f"{call}: {kind} {what}. {remedy}")


def unknown(call: str, given: Any, taken: Collection[str]) -> NoReturn:
    """Raise for a layer of a class that has no counterpart."""
    refuse(
        call,
        f"takes {', '.join(sorted(taken))};",
        f"got {type(given).__module__}.{type(given).__name__}",
        "A subclass may compute something else, so it is not converted: convert its parts.",
    )


def check_expressible(layer: Any, target: str, *, call: str, has: Collection[str] = ()) -> None:
    """Raise if the layer has an option that the target lacks.

    Parameters
    ----------
    layer : Module
        A layer of ours.
    target : str
        What the error calls the target.
    call : str
        What the error calls the converter.
    has : collection of str
        The options that the target has, and may have any value of.

    Raises
    ------
    ConversionError
        Naming the option.
    """
    for option in _OPTIONS:
        value = getattr(layer, option)
        if value is not None and option not in has:
            lacks(call, layer, f"{option}={value}", target, f"Build the layer with {option}=None.")
    if layer.masked_output == "input":  # the other two give the same wherever nothing is masked
        lacks(call, layer, "masked_output=input", target, "Build the layer with masked_output='normalize'.")
    state = state_of(layer)
    if state is not None and type(state).execute is not NormParam.execute:
        lacks(call, layer, f"param_type={type(state).__name__}", target, "Build the layer with the default param_type.")
    if not units.strip(layer.epsilon, None)[1].is_unitless:
        lacks(call, layer, f"a unit in epsilon={layer.epsilon}", target, "Give epsilon as a plain number.")


def lacks(call: str, layer: Any, what: str, target: str, remedy: str) -> NoReturn:
    """Raise for an option of a layer of ours that the target has no word for."""
    refuse(call, type(layer).__name__, f"has {what}, which {target} lacks", remedy)
