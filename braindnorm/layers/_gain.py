"""A gain of each time step, which multiplies what scale and bias have made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import brainstate
import jax.numpy as jnp

from ..errors import OptionError
from ..units import QuantityLike
from ._affine import is_plain
from ._per_step import at_step, check_param_steps

if TYPE_CHECKING:
    from .batch_norm import BatchNorm


def make_gain(layer: "BatchNorm", gain_steps: int | None, gain_power: int) -> brainstate.ParamState | None:
    """Set the options of a layer, and return the state with the gain of each step, from 1; None if there is none.

    Raises
    ------
    OptionError
        If an option has no meaning, or scale and bias are applied by an `execute` that is not the plain one.
    """
    layer.gain_steps = check_param_steps(gain_steps, "gain_steps")
    if isinstance(gain_power, bool) or gain_power not in (1, 2):
        raise OptionError(f"gain_power must be 1 or 2; got {gain_power!r}.")
    layer.gain_power = int(gain_power)
    if layer.gain_steps is None:
        if gain_power != 1:
            raise OptionError(
                f"gain_power={gain_power} raises the gain of each step, and there is none. Give gain_steps as well."
            )
        return None
    weight = layer.weight
    if weight is not None and not is_plain(type(weight)):
        raise OptionError(
            f"gain_steps={gain_steps} multiplies scale and bias, which {type(weight).__name__}.execute does not handle."
            " Use NormParam, or gain_steps=None."
        )
    return brainstate.ParamState(jnp.ones(layer.gain_steps, brainstate.environ.dftype()))


def with_gain(layer: "BatchNorm", arguments: Mapping[str, Any], x: QuantityLike) -> Mapping[str, Any]:
    r"""Return scale and bias, as arguments of a functional norm of `x`, times the gain of its steps.

    .. math:: p_t^k (\gamma z_t + \beta) = (p_t^k \gamma)\, z_t + p_t^k \beta
    """
    if layer.gain is None or layer.gain_steps is None:
        return arguments
    spread = jnp.reshape(layer.gain.value, (-1, *[1] * len(layer.in_size)))
    gain = at_step({"gain": spread}, layer.gain_steps, layer.in_size, x, "gain_steps")["gain"] ** layer.gain_power
    return {"scale": gain} | {key: gain * value for key, value in arguments.items()}
