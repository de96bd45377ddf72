"""Scale and bias that differ from time step to time step: which step it is, and what belongs to it."""

import sys
from collections.abc import Mapping
from typing import SupportsIndex

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import AxisError, OptionError
from ..units import QuantityLike, Shape


def check_param_steps(param_steps: SupportsIndex | None) -> int | None:
    """Return the number of steps, or None where the parameters are those of all steps.

    Raises
    ------
    OptionError
        If it is not a positive integer.
    """
    if param_steps is None:
        return None
    integer = int(param_steps) if isinstance(param_steps, int | np.integer) and not isinstance(param_steps, bool) else 0
    if not 1 <= integer <= sys.maxsize:
        raise OptionError(f"param_steps must be a positive integer, or None; got {param_steps!r}.")
    return integer


def at_step(
    parameters: Mapping[str, jax.Array], param_steps: int, in_size: Shape, x: QuantityLike
) -> dict[str, jax.Array]:
    r"""Return the parameters of the steps that `x` is of.

    .. math:: y_t = \gamma_{i(t)} z_t + \beta_{i(t)}

    The steps come from the environment: ``brainstate.environ.context(i=...)``, one integer, or an array of them that is
    aligned with the leading axes of `x` (``i=jnp.arange(T)`` for a whole sequence, time first).

    Raises
    ------
    OptionError
        If there is no `i`, or it is not an integer between 0 and param_steps - 1. Where it cannot be known, while a
        loop is traced, such a step gets NaN: never the parameters of another one.
    AxisError
        If an array of steps does not fit the leading axes.
    """
    shape = units.shape_of(x)
    steps = _steps(param_steps)
    batch = shape[: max(len(shape) - len(in_size), 0)]
    if steps.shape != batch[: steps.ndim]:
        raise AxisError(
            f"the steps i of shape {steps.shape} do not fit the leading axes of an input of shape {shape}, of"
            f" which {batch} come before in_size={in_size}. For a whole sequence set one i for each"
            " entry of its leading axis, time; for one step, one integer."
        )
    spread = (1,) * (len(batch) - steps.ndim) if steps.ndim else ()
    outside = jnp.where(steps < 0, param_steps, steps)  # a negative index would count from the end
    taken = {key: jnp.take(v, outside, axis=0, mode="fill", fill_value=jnp.nan) for key, v in parameters.items()}
    return {key: v.reshape(*steps.shape, *spread, *v.shape[steps.ndim :]) for key, v in taken.items()}


def _steps(param_steps: int) -> jax.Array:
    step = brainstate.environ.get("i", None)
    if step is None:
        raise OptionError(
            f"there are parameters for each of param_steps={param_steps} steps, but the environment does not say which"
            " step this is. Write with brainstate.environ.context(i=i): in the body of the loop, or"
            f" i=jnp.arange({param_steps}) around a whole sequence of shape (time, ...)."
        )
    try:
        steps = jnp.asarray(step)
    except (TypeError, ValueError):
        steps = jnp.asarray(jnp.nan)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise OptionError(f"the step i must be an integer, or an array of integers; got {step!r}.")
    known = not isinstance(step, jax.core.Tracer) and np.size(step)
    if known and not 0 <= np.min(step) <= np.max(step) < param_steps:
        raise OptionError(f"step i={step} is not one of the param_steps={param_steps} steps, 0 to {param_steps - 1}.")
    return steps
