"""What divisive normalization takes besides the options of every norm: sigma, gamma, the exponent and the pool."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import DtypeError, OptionError, UnitError
from ..units import Mantissa, QuantityLike, Unit
from ._enter import check_flag


def in_drive_unit(sigma: QuantityLike, unit: Unit) -> Mantissa:
    """Return sigma as plain numbers that count in the unit of the drive.

    Raises
    ------
    UnitError
        If it is of another dimension.
    DtypeError
        If it is not a number, or complex.
    OptionError
        If it is negative or not finite.
    """
    plain, sigma_unit = units.strip_parameters({"sigma": sigma}, None)
    mantissa = real_parameter(plain["sigma"], "sigma")
    if sigma_unit is not None:
        if not sigma_unit.has_same_dim(unit):
            raise UnitError(
                f"sigma is in {sigma_unit}, but the drive is in {unit}. Give sigma in the drive's unit, or as a"
                " plain number, which is then in that unit."
            )
        mantissa = units.convert(mantissa, sigma_unit, unit)
    if not isinstance(mantissa, jax.core.Tracer) and not (np.isfinite(mantissa) & (np.asarray(mantissa) >= 0)).all():
        raise OptionError(f"sigma must be finite, zero or larger; got {sigma!r}.")
    return mantissa


def real_parameter(value: Mantissa | None, option: str) -> Mantissa:
    """Return plain numbers as they are.

    Raises
    ------
    OptionError
        If there are none.
    DtypeError
        If they are complex.
    """
    if value is None:
        raise OptionError(f"{option} must be a number, an array of numbers or a quantity; got None.")
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise DtypeError(f"{option} is complex, for which divisive normalization is not defined. Make it real.")
    return value


def check_exponent(exponent: float, rectify: object) -> None:
    """Raise unless the exponent is a positive number, and `rectify` a boolean.

    Raises
    ------
    OptionError
        If one of them is not.
    """
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
    plain, unit = units.strip_parameters({"pool": pool}, None)
    if unit is not None:
        raise UnitError(
            f"the pool's weights are in {unit}, but weights are plain numbers: a pool has the unit of the"
            " drive. Divide them by their unit."
        )
    weights = real_parameter(plain["pool"], "pool")
    if jnp.ndim(weights) != 2 or jnp.shape(weights)[0] != jnp.shape(weights)[1]:
        raise OptionError(
            f"a pool's weights are a square matrix, one row for each element; got shape {jnp.shape(weights)}."
        )
    if not isinstance(weights, jax.core.Tracer) and not (np.isfinite(weights) & (np.asarray(weights) >= 0)).all():
        raise OptionError("a pool's weights must be finite, zero or larger, or the divisor may vanish.")
    return "weighted", weights
