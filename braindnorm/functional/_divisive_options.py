"""What divisive normalization takes besides the options of every norm: sigma, gamma, the exponent and the pool."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import DtypeError, OptionError, UnitError
from ..units import Mantissa, QuantityLike
from ._dtypes import REAL
from ._enter import check_flag


def real_parameter(value: QuantityLike | None, option: str) -> QuantityLike:
    """Return a parameter as it is.

    Raises
    ------
    OptionError
        If it is None.
    DtypeError
        If it is complex, or not a number.
    """
    if value is None:
        raise OptionError(f"{option} must be a number, an array of numbers or a quantity; got None.")
    if isinstance(value, jax.Array) and value.dtype in REAL:  # nearly every call
        return value
    if jnp.issubdtype(jnp.result_type(units.strip(value, None, what=option)[0]), jnp.complexfloating):
        raise DtypeError(f"{option} is complex, for which divisive normalization is not defined. Make it real.")
    return value


def not_negative(sigma: Mantissa, value: QuantityLike) -> Mantissa:
    """Return sigma, which was read from `value`. Where it is known only when the program runs, NaN if it is negative.

    Raises
    ------
    OptionError
        If it is negative or not finite.
    """
    if isinstance(sigma, jax.core.Tracer):
        return jnp.where(sigma < 0, jnp.nan, sigma)
    if not (np.isfinite(sigma) & (np.asarray(sigma) >= 0)).all():
        raise OptionError(f"sigma must be finite, zero or larger; got {value!r}.")
    return sigma


def check_exponent(exponent: float, rectify: object) -> None:
    """Raise unless the exponent is a positive number, and `rectify` a boolean.

    Raises
    ------
    OptionError
        If one of them is not.
    """
    if isinstance(exponent, jax.core.Tracer):
        raise OptionError(f"exponent must be known when a program is traced, not be its argument; got {exponent!r}.")
    number = isinstance(exponent, int | float | np.number) and not isinstance(exponent, bool)
    if not number or not 0 < exponent <= 100:
        raise OptionError(f"exponent must be one number above 0 and at most 100; got {exponent!r}.")
    check_flag("rectify", rectify)


def read_pool(pool: QuantityLike | str) -> tuple[Literal["mean", "sum", "weighted"], Mantissa | None]:
    """Return the kind of a pool, and its weights as an array if it has them.

    Raises
    ------
    OptionError
        If it is neither 'mean' nor 'sum' nor a square matrix that is finite and nowhere negative.
    UnitError
        If it has a unit.
    DtypeError
        If it is not an array of real numbers.
    """
    if isinstance(pool, str):
        if pool == "mean":
            return "mean", None
        if pool == "sum":
            return "sum", None
        raise OptionError(f"pool must be 'mean', 'sum' or a matrix of weights; got {pool!r}.")
    weights, unit = units.strip(real_parameter(pool, "pool"), None)
    if not units.is_unitless(unit):
        raise UnitError(
            f"the pool's weights are in {unit}, but weights are plain numbers: a pool has the unit of the"
            " drive. Divide them by their unit."
        )
    if jnp.ndim(weights) != 2 or jnp.shape(weights)[0] != jnp.shape(weights)[1]:
        raise OptionError(
            f"a pool's weights are a square matrix, one row for each element; got shape {jnp.shape(weights)}."
        )
    if not isinstance(weights, jax.core.Tracer) and not (np.isfinite(weights) & (np.asarray(weights) >= 0)).all():
        raise OptionError("a pool's weights must be finite, zero or larger, or the divisor may vanish.")
    return "weighted", weights
