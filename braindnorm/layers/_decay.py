"""How much of the past a step keeps: a plain factor, or a time constant."""

from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import OptionError


def check_decay(decay: Any, tau: Any, *, name: str) -> None:
    """Raise unless at most one is given, `decay` lies between 0 and 1, and `tau` is positive.

    Raises
    ------
    OptionError
        Saying which is wrong.
    """
    if decay is not None and tau is not None:
        raise OptionError(f"{name}: give decay (a step) or tau (a time constant), not both; got {decay!r} and {tau!r}.")
    if decay is not None and not 0 <= _number(decay, "decay", name) <= 1:
        raise OptionError(f"{name}: decay must lie between 0 (forget all) and 1 (forget nothing); got {decay!r}.")
    if tau is not None and not _number(units.strip(tau, None, name=name)[0], "tau", name) > 0:
        raise OptionError(f"{name}: tau must be longer than 0; got {tau!r}.")


def decay_of(decay: Any, tau: Any, *, name: str) -> Any:
    r"""Return the factor of one step: `decay`, or :math:`\exp(-\Delta t / \tau)`, or 1 where neither is given.

    Raises
    ------
    OptionError
        If `tau` is given and the environment has no ``dt``.
    UnitError
        If ``dt`` is of another dimension than `tau`.
    """
    if tau is None:
        return 1.0 if decay is None else decay
    dt = brainstate.environ.get("dt", None)
    if dt is None:
        raise OptionError(
            f"{name}: tau={tau} is a time, and the environment has no time step. Write"
            " brainstate.environ.set(dt=0.1 * brainunit.ms), or give decay instead of tau."
        )
    constant, unit = units.strip(tau, None, name=name)
    step, _ = units.strip(dt, unit, name=f"{name} (its tau, for environ dt)")
    return jnp.exp(-step / constant)


def _number(value: Any, option: str, name: str) -> Any:
    if isinstance(value, jax.core.Tracer):
        raise OptionError(f"{name}: {option} must be a number that is known when the norm is built; got {value!r}.")
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "fiu":
        raise OptionError(f"{name}: {option} must be one number; got {value!r}.")
    return number
