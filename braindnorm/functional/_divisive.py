"""Divisive normalization: a drive divided by a constant plus the pooled activity of its neighbours."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import Axes, canonical_axes, fit_parameter
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction, across_devices, at_least_one, local_count, local_sum, zero_masked
from ..errors import AxisError, OptionError, UnitError
from ..masks._align import align
from ._dtypes import real_array, result_dtype

Pool = Literal["mean", "sum"] | Any


class Response(NamedTuple):
    """The kind of response: its exponent, what is pooled, and whether the drive keeps its sign."""

    exponent: float
    pool: Pool
    signed: bool


def divisive_norm(
    x: Any,
    sigma: Any = 1.0,
    gamma: Any = 1.0,
    *,
    exponent: float = 2.0,
    pool_axes: Axes = -1,
    pool: Pool = "mean",
    signed: bool = False,
    mask: Any = None,
    unit: Any = None,
    out_unit: Any = None,
    axis_name: AxisName | None = None,
    axis_index_groups: Any = None,
    dtype: Any = None,
    name: str = "divisive_norm",
) -> Any:
    r"""Divisive normalization [1]_, a canonical neural computation.

    .. math:: R_i = \gamma \, \frac{D_i^n}{\sigma^n + \operatorname{pool}_j D_j^n}, \quad
       \operatorname{pool}_j D_j^n = \tfrac1N \sum_j D_j^n, \; \sum_j D_j^n \; \text{or} \; \sum_j w_{ij} D_j^n

    Parameters
    ----------
    x : array_like or Quantity
        The drive D, of any shape. What is negative counts as 0, unless `signed`.
    sigma : array_like or Quantity
        The semi-saturation constant, in the unit of the drive (a plain number counts in it), broadcast from the right.
    gamma : array_like or Quantity
        The gain, in the output's unit, broadcast from the right.
    exponent : float
        n, above 0. Below 1 the slope grows without bound towards a drive of 0; at 0 itself it is taken as 0.
    pool_axes : int or sequence of int
        The axes of `x` that are pooled.
    pool : {'mean', 'sum'} or array_like of shape (N, N)
        The pool of element i: the mean or the sum of the valid elements, or the sum weighted by row i of a matrix that
        is nowhere negative. A matrix pools one axis.
    signed : bool
        Respond to the magnitude of the drive, with its sign: :math:`\operatorname{sign}(D) |D|^n` over
        :math:`\sigma^n + \operatorname{pool} |D|^n`.
    mask, unit, out_unit, axis_name, axis_index_groups, dtype, name
        As in every norm: see :mod:`braindnorm.functional`. What is masked leaves the pool, and responds with 0. Where
        nothing is pooled, :math:`R = \gamma D^n / \sigma^n`.

    Returns
    -------
    Array or Quantity
        R, of the shape of `x`, in `out_unit`. It is 0 where the whole denominator is.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    Notes
    -----
    Drive and constant are divided by a common scale before the power, so that no :math:`D^n` overflows. With
    :math:`n = 2` and the mean, R is the square of :func:`~braindnorm.functional.rms_norm` with epsilon = sigma.

    References
    ----------
    .. [1] Carandini, M. and Heeger, D. J. (2012). Normalization as a canonical neural computation. Nat. Rev. Neurosci.
       13, 51-62. doi:10.1038/nrn3136

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import divisive_norm
    >>> divisive_norm(jnp.array([10., 30.]) * u.Hz, sigma=20. * u.Hz, gamma=14. * u.Hz, pool="sum").round(1)
    Quantity([1. 9.], "Hz")
    """
    mantissa, reference = units.strip(x, units.check_unit(unit, option="unit", name=name), name=name)
    learned, gain_unit = units.strip_parameters(
        {"gamma": gamma}, units.check_unit(out_unit, option="out_unit", name=name), name=name
    )
    array = real_array(mantissa, name=name)
    axes = canonical_axes(pool_axes, array.ndim, option="pool_axes", name=name)
    over = Reduction(axes, axis_name=axis_name, axis_index_groups=axis_index_groups, name=name)
    parameters = [in_drive_unit(sigma, reference, name=name), learned["gamma"]]
    check_response(exponent, pool, name=name)
    result = result_dtype([array, *parameters], dtype, name=name)
    wide = jnp.promote_types(jnp.promote_types(array.dtype, result), jnp.float32)
    fitted, gain = (
        fit_parameter(value, array.shape, option=option, name=name).astype(wide)
        for option, value in zip(("sigma", "gamma"), parameters, strict=True)
    )
    valid = align(mask, array.shape, name=name)
    r = _respond(array.astype(wide), fitted, gain, valid, over, Response(exponent, pool, signed))
    return units.restore(r.astype(result), reference if gain_unit is None else gain_unit)


def in_drive_unit(sigma: Any, unit: Any, *, name: str) -> Any:
    """Return sigma as plain numbers that count in the unit of the drive.

    Raises
    ------
    UnitError
        If it is of another dimension.
    OptionError
        If it is negative or not finite.
    """
    mantissa, given = units.strip(sigma, None, name=name)
    if not given.is_unitless:
        if not given.has_same_dim(unit):
            raise UnitError(
                f"{name}: sigma is in {given}, but the drive is in {unit}. Give sigma in the drive's unit, or as a"
                " plain number, which counts in it."
            )
        mantissa = units.convert(mantissa, given, unit)
    if not isinstance(mantissa, jax.core.Tracer) and not (np.isfinite(mantissa) & (np.asarray(mantissa) >= 0)).all():
        raise OptionError(f"{name}: sigma must be finite, zero or larger; got {sigma!r}.")
    return mantissa


def check_response(exponent: Any, pool: Any, *, name: str) -> None:
    """Raise unless the exponent is a positive number and the pool one of its three kinds.

    Raises
    ------
    OptionError
        If one of them is not.
    """
    number = isinstance(exponent, int | float | np.number) and not isinstance(exponent, bool)
    if not number or not 0 < exponent < float("inf"):
        raise OptionError(f"{name}: exponent must be one finite number above 0; got {exponent!r}.")
    if isinstance(pool, str):
        if pool not in ("mean", "sum"):
            raise OptionError(f"{name}: pool must be 'mean', 'sum' or a matrix of weights; got {pool!r}.")
        return
    if jnp.ndim(pool) != 2 or jnp.shape(pool)[0] != jnp.shape(pool)[1]:
        raise OptionError(
            f"{name}: a pool's weights are a square matrix, one row for each element; got shape {jnp.shape(pool)}."
        )
    if not isinstance(pool, jax.core.Tracer) and not (np.isfinite(pool) & (np.asarray(pool) >= 0)).all():
        raise OptionError(f"{name}: a pool's weights must be finite, zero or larger, or the divisor may vanish.")


def _respond(
    x: jax.Array, sigma: jax.Array, gamma: jax.Array, valid: jax.Array | None, over: Reduction, how: Response
) -> jax.Array:
    """Return the response to a drive: the equation itself."""
    x = zero_masked(x, valid)
    drive = x if how.signed else jnp.where(x > 0, x, 0)  # not maximum, whose slope at 0 is a half
    # R keeps its value when drive and sigma are divided by one number; so any scale is exact, and carries no gradient
    count, scale = _scale(jax.lax.stop_gradient(jnp.abs(drive) + sigma), valid, over)
    drive = drive / scale
    pooled = _pooled(_power(jnp.abs(drive), how.exponent), count, over, how.pool)
    divisor = _power(sigma / scale, how.exponent) + pooled
    responds = divisor > 0
    ratio = _signed_power(drive, how.exponent) / jnp.where(responds, divisor, 1)
    return zero_masked(gamma * jnp.where(responds, ratio, 0), valid)


def _scale(size: jax.Array, valid: jax.Array | None, over: Reduction) -> tuple[jax.Array, jax.Array]:
    """Return how many elements the pool has, and their mean size; 1 where there is none."""
    count = local_count(size.shape, valid, over, size.dtype)
    count, total = across_devices([count, local_sum(zero_masked(size, valid), over)], over)
    mean = total / at_least_one(count)
    return count, jnp.where(mean > 0, mean, 1)


def _pooled(activity: jax.Array, count: jax.Array, over: Reduction, pool: Pool) -> jax.Array:
    if isinstance(pool, str):
        (total,) = across_devices([local_sum(activity, over)], over)
        return total / at_least_one(count) if pool == "mean" else total
    weights = jnp.asarray(pool, activity.dtype)
    if len(over.axes) != 1 or activity.shape[over.axes[0]] != len(weights):
        raise AxisError(
            f"{over.name}: a pool of {weights.shape} weights needs one pool axis of length {len(weights)}; got"
            f" pool_axes={over.axes} of an input of shape {activity.shape}."
        )
    weighted = jnp.moveaxis(jnp.tensordot(activity, weights, axes=(over.axes, (1,))), -1, over.axes[0])
    (total,) = across_devices([weighted], over)
    return total


def _power(magnitude: jax.Array, exponent: float) -> jax.Array:
    """Return a magnitude to the power of n, with a finite derivative at 0."""
    if exponent == int(exponent):
        return jax.lax.integer_pow(magnitude, int(exponent))
    positive = magnitude > 0
    return jnp.where(positive, jnp.where(positive, magnitude, 1) ** exponent, 0)


def _signed_power(drive: jax.Array, exponent: float) -> jax.Array:
    """Return sign(D) |D|^n; for n = 1 this is D, with a derivative of 1 at 0."""
    if exponent < 1:
        return jnp.sign(drive) * _power(jnp.abs(drive), exponent)
    return drive if exponent == 1 else drive * _power(jnp.abs(drive), exponent - 1)
