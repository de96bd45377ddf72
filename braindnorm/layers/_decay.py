"""How much of the past a step keeps: a plain factor, or a time constant."""

import math

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.memory import Rate
from ..errors import DtypeError, OptionError, UnitError
from ..units import Mantissa, QuantityLike, Unit


def check_decay(decay: float | None, tau: QuantityLike | None) -> None:
    """Raise unless at most one is given, `decay` lies between 0 and 1, and `tau` is positive.

    Raises
    ------
    OptionError
        Saying which is wrong.
    """
    if decay is not None and tau is not None:
        raise OptionError(f"give decay (a step) or tau (a time constant), not both; got {decay!r} and {tau!r}.")
    if decay is not None:
        number, unit = _number(decay, "decay")
        if not unit.is_unitless:
            raise OptionError(f"decay={decay} has a unit, and a factor has none. Did you mean tau={decay}?")
        if not 0 <= number <= 1:
            raise OptionError(f"decay must lie between 0 (forget all) and 1 (forget nothing); got {decay!r}.")
    if tau is not None and not _number(tau, "tau")[0] > 0:
        raise OptionError(f"tau must be longer than 0; got {tau!r}.")


def rate_of(decay: float | None, tau: QuantityLike | None) -> Rate:
    r"""Return how fast the past fades, :math:`\Delta t / \tau` or :math:`-\ln` of `decay`; 0 where neither is given.

    The rate has digits where the factor has none: 0.9999 of float32 to the power of 100000 is off by 3e-3.

    Raises
    ------
    OptionError
        If `tau` is given and the environment has no ``dt``, or one that is not longer than 0.
    UnitError
        If ``dt`` is of another dimension than `tau`.
    """
    if tau is None:
        factor = 1.0 if decay is None else float(decay)
        return -math.log(factor) if factor else math.inf
    dt = brainstate.environ.get("dt", None)
    if dt is None:
        raise OptionError(
            f"tau={tau} is a time, and the environment has no time step. Write"
            " brainstate.environ.set(dt=0.1 * brainunit.ms), or give decay instead of tau."
        )
    if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(dt)):
        step, constant = _step_and_constant(dt, tau)
        step = jnp.asarray(step)  # known only when the program runs: NaN, not a factor above 1
        return jnp.where(step > 0, step, jnp.nan) / constant
    with jax.ensure_compile_time_eval():  # what is known stays known while a program is traced
        known, constant = map(np.asarray, _step_and_constant(dt, tau))
    if known.ndim or not known > 0:
        raise OptionError(f"the environment's time step dt must be one time, longer than 0; got {dt!r}.")
    return float(known / constant)


def _step_and_constant(dt: QuantityLike, tau: QuantityLike) -> tuple[Mantissa, Mantissa]:
    constant, unit = units.strip(tau, None)
    step, arrived = units.strip(dt, None)
    if not arrived.has_same_dim(unit):
        raise UnitError(
            f"tau={tau} and the environment's time step dt={dt} must both be times, or both be plain numbers."
            f" Write tau={_as_time(tau, unit)} and brainstate.environ.set(dt={_as_time(dt, arrived)})."
        )
    return units.convert(step, arrived, unit), constant


def _as_time(value: QuantityLike, unit: Unit) -> str:
    known = "..." if isinstance(value, jax.core.Tracer) or not unit.is_unitless else value
    return f"{known} * brainunit.ms"


def _number(value: QuantityLike, option: str) -> tuple[np.ndarray, Unit]:
    """Return one number, and its unit."""
    try:
        mantissa, unit = units.strip(value, None)
    except DtypeError as error:
        raise OptionError(f"{option} must be one number; got {value!r}.") from error
    if isinstance(mantissa, jax.core.Tracer):
        raise OptionError(f"{option} must be a number that is known when the norm is built; got {value!r}.")
    number = np.asarray(mantissa)
    if number.ndim or number.dtype.kind not in "fiu":
        raise OptionError(f"{option} must be one number; got {value!r}.")
    return number, unit
