"""Scale and bias that differ from time step to time step: which step it is, and what belongs to it."""

import sys
from collections.abc import Mapping
from typing import Any, SupportsIndex

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import AxisError, OptionError
from ..units import QuantityLike, Shape


def check_param_steps(param_steps: SupportsIndex | None, option: str = "param_steps") -> int | None:
    """Return the number of steps, or None where the parameters are those of all steps.

    Raises
    ------
    OptionError
        If it is not a positive integer.
    """
    if param_steps is None:
        return None
    return check_num_steps(param_steps, option, ", or None")


def check_num_steps(num_steps: object, option: str = "num_steps", also: str = "") -> int:
    """Return a number of steps; `also` is what may be given besides.

    Raises
    ------
    OptionError
        If it is not a positive integer.
    """
    integer = int(num_steps) if isinstance(num_steps, int | np.integer) and not isinstance(num_steps, bool) else 0
    if not 1 <= integer <= sys.maxsize:
        raise OptionError(f"{option} must be a positive integer{also}; got {num_steps!r}.")
    return integer


def steps_as_options(num_steps: int, options: Mapping[str, object], *names: str) -> dict[str, Any]:
    """Return the number of steps as the options of these names.

    Raises
    ------
    OptionError
        If it is not a positive integer, or one of them is given besides.
    """
    steps = check_num_steps(num_steps)
    for name in names:
        if name in options:
            raise OptionError(f"num_steps={steps} sets {name}, so leave it out; or write BatchNorm(in_size, ...).")
    return dict.fromkeys(names, steps)


def at_step(
    parameters: Mapping[str, jax.Array],
    param_steps: int,
    in_size: Shape,
    x: QuantityLike,
    option: str = "param_steps",
) -> dict[str, jax.Array]:
    r"""Return the parameters of the steps that `x` is of, or what else there is for each step.

    .. math:: y_t = \gamma_{i(t)} z_t + \beta_{i(t)}

    Raises
    ------
    OptionError
        As :func:`steps_of_input`. Where a step cannot be known, while a loop is traced, one that is not there gets NaN:
        never the parameters of another one.
    """
    steps = steps_of_input(param_steps, in_size, x, option)
    batch = max(len(units.shape_of(x)) - len(in_size), 0)
    spread = (1,) * (batch - steps.ndim) if steps.ndim else ()
    outside = jnp.where(steps < 0, param_steps, steps)  # a negative index would count from the end
    taken = {key: jnp.take(v, outside, axis=0, mode="fill", fill_value=jnp.nan) for key, v in parameters.items()}
    return {key: v.reshape(*steps.shape, *spread, *v.shape[steps.ndim :]) for key, v in taken.items()}


def steps_of_input(num_steps: int, in_size: Shape, x: QuantityLike, option: str) -> jax.Array:
    """Return the steps that `x` is of.

    They come from the environment: ``brainstate.environ.context(i=...)``, one integer, or an array of them that is
    aligned with the leading axes of `x` (``i=jnp.arange(T)`` for a whole sequence, time first).

    Raises
    ------
    OptionError
        If there is no `i`, or it is not an integer between 0 and num_steps - 1.
    AxisError
        If an array of steps does not fit the leading axes.
    """
    shape = units.shape_of(x)
    steps = _steps(num_steps, option)
    batch = shape[: max(len(shape) - len(in_size), 0)]
    if steps.shape != batch[: steps.ndim]:
        raise AxisError(
            f"the steps i of shape {steps.shape} do not fit the leading axes of an input of shape {shape}, of"
            f" which {batch} come before in_size={in_size}. For a whole sequence set one i for each"
            " entry of its leading axis, time; for one step, one integer."
        )
    return steps


def _steps(num_steps: int, option: str) -> jax.Array:
    step = brainstate.environ.get("i", None)
    if step is None:
        what = "statistics" if option == "running_steps" else "parameters"
        raise OptionError(
            f"there are {what} for each of {option}={num_steps} steps, but the environment does not say which"
            " step this is. Write with brainstate.environ.context(i=i): in the body of the loop, or"
            f" i=jnp.arange({num_steps}) around a whole sequence of shape (time, ...)."
        )
    try:
        steps = jnp.asarray(step)
    except (TypeError, ValueError):
        steps = jnp.asarray(jnp.nan)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise OptionError(f"the step i must be an integer, or an array of integers; got {step!r}.")
    known = known_steps()
    if known is not None and known.size and not 0 <= known.min() <= known.max() < num_steps:
        raise OptionError(f"step i={step} is not one of the {option}={num_steps} steps, 0 to {num_steps - 1}.")
    return steps


def known_steps() -> np.ndarray | None:
    """Return the steps of the environment on the host; None where they are traced."""
    step = brainstate.environ.get("i", None)
    return None if isinstance(step, jax.core.Tracer) else np.asarray(step)
