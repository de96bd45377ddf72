"""Read an epsilon: a variance, a standard deviation, or a plain number."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import OptionError, UnitError
from ._boundary import UNITLESS, convert, is_unitless, spell, split
from ._types import Mantissa, QuantityLike, Unit


def variance_of(epsilon: QuantityLike, unit: Unit) -> Mantissa:
    r"""Read an epsilon as a variance in `unit` squared.

    Parameters
    ----------
    epsilon : float or Quantity
        A plain number is in `unit` squared. A quantity of the dimension of `unit` squared is a variance; one of the
        dimension of `unit` is a standard deviation :math:`\sigma`, and is squared. Without a dimension (mV/V) the two
        are told apart by their unit, which must be `unit` squared or `unit` itself.
    unit : Unit
        The reference unit.

    Raises
    ------
    UnitError
        If the dimension is another one, or there is none and the unit does not tell which of the two is meant.
    OptionError
        If epsilon is negative, not finite or no scalar.
    """
    mantissa, epsilon_unit = split(epsilon, "epsilon")
    if is_unitless(epsilon_unit):
        value = mantissa
    elif epsilon_unit.has_same_dim(unit) and epsilon_unit.has_same_dim(unit**2):
        value = _without_dimension(mantissa, epsilon_unit, unit)
    elif epsilon_unit.has_same_dim(unit):
        value = convert(mantissa, epsilon_unit, unit) ** 2
    elif epsilon_unit.has_same_dim(unit**2):
        value = convert(mantissa, epsilon_unit, unit**2)
    else:
        raise UnitError(
            f"epsilon is in {epsilon_unit}, but the input is in {unit}. Give a plain number (it is in"
            f" ({unit})^2), a variance in ({unit})^2 or a standard deviation in {unit}."
        )
    return _non_negative(mantissa, value)


def _without_dimension(mantissa: Mantissa, epsilon_unit: Unit, unit: Unit) -> Mantissa:
    """Return the variance where a variance and a standard deviation have the same dimension: none."""
    if epsilon_unit == unit**2:
        return mantissa
    if epsilon_unit == unit:
        return mantissa**2
    mine = "has no unit" if is_unitless(unit) else f"is in {spell(unit)}"
    raise UnitError(
        f"epsilon is in {spell(epsilon_unit)}, and the input {mine}. Neither has a dimension, so epsilon"
        " may be a variance or a standard deviation. Give a plain number (a variance, in the input's unit squared), or"
        " a quantity in exactly the input's unit squared (a variance) or in its unit (a standard deviation)."
    )


def check_epsilon(epsilon: QuantityLike, unit: Unit | None) -> None:
    """Raise if `epsilon` is wrong whatever comes: a quantity needs a unit to be compared with."""
    if unit is not None or split(epsilon, "epsilon")[1].is_unitless:
        variance_of(epsilon, UNITLESS if unit is None else unit)


def _non_negative(epsilon: Mantissa, value: Mantissa) -> Mantissa:
    if isinstance(epsilon, jax.core.Tracer):
        return value
    if isinstance(epsilon, float) and math.isfinite(epsilon) and epsilon >= 0:
        return value
    number = np.asarray(epsilon)
    real = jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)
    if number.ndim or not real or not np.isfinite(number) or number < 0:
        raise OptionError(f"epsilon must be one finite number, zero or larger; got {epsilon!r}.")
    return value
