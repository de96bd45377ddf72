"""Divisive normalization: a drive divided by a constant plus the pooled activity of its neighbours."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from .. import units
from .._numerics.axes import Axes, canonical_axes, fit_parameter
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction, zero_masked
from .._numerics.pools import Response, respond
from ..errors import AxisError
from ..masks._align import align
from ..units import Dtype, DtypeLike, Mantissa, MaskLike, QuantityLike, Result, Shape, Unit
from ._arguments import norm_function
from ._divisive_options import check_exponent, in_drive_unit, read_pool, real_parameter
from ._dtypes import arithmetic_dtype, real_array, result_dtype
from ._enter import MaskedOutput, check_flag, padding_of
from ._reduction import check_axis_name

Pool = Literal["mean", "sum"] | QuantityLike
# an eager call is one program, not a hundred; inside another program it leaves no trace
_compiled = functools.partial(jax.jit, static_argnums=(0, 1), inline=True)(respond)


@norm_function()
def divisive_norm(
    x: QuantityLike,
    sigma: QuantityLike = 1.0,
    gamma: QuantityLike = 1.0,
    *,
    exponent: float = 2.0,
    pool_axes: Axes = -1,
    pool: Pool = "mean",
    rectify: bool = True,
    stop_statistics_gradient: bool = False,
    mask: MaskLike | None = None,
    masked_output: MaskedOutput = "zero",
    unit: Unit | None = None,
    out_unit: Unit | None = None,
    axis_name: AxisName | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    dtype: DtypeLike | None = None,
    name: str = "divisive_norm",
) -> Result:
    r"""Divisive normalization [1]_, a canonical neural computation.

    .. math:: R_i = \gamma \, \frac{D_i^n}{\sigma^n + \operatorname{pool}_j D_j^n}, \quad
       \operatorname{pool}_j D_j^n = \tfrac1N \sum_j D_j^n, \; \sum_j D_j^n \; \text{or} \; \sum_j w_{ij} D_j^n

    Parameters
    ----------
    x : array_like or Quantity
        The drive D, of any shape. What is negative counts as 0, unless `rectify` is False.
    sigma : array_like or Quantity
        The semi-saturation constant, 0 or larger, in the unit of the drive (a plain number is in that unit), broadcast
        from the right.
    gamma : array_like or Quantity
        The gain, in the output's unit, broadcast from the right.
    exponent : float
        n, above 0 and at most 100. Below 1 the slope grows without bound towards a drive of 0; at 0 it is taken as 0.
    pool_axes : int or sequence of int
        The axes of `x` that are pooled.
    pool : {'mean', 'sum'} or array_like of shape (N, N)
        The pool of element i: the mean or the sum of the valid elements, or the sum weighted by row i of a matrix that
        is nowhere negative. A matrix pools one axis.
    rectify : bool
        True takes a negative drive as 0 (half-wave rectification [2]_). False responds to its magnitude, with its sign:
        :math:`\operatorname{sign}(D) |D|^n` over :math:`\sigma^n + \operatorname{pool} |D|^n`.
    stop_statistics_gradient : bool
        Whether the drive of the pool is a constant to derivatives, so that each element has one of its own:
        :math:`\dot R_i = \gamma n D_i^{n-1} \dot D_i / (\sigma^n + \operatorname{pool}_j D_j^n)`. Values are the same,
        and sigma, gamma and a matrix of weights keep their derivatives.
    axis_name, axis_index_groups
        Mapped axes that are pooled too. With a matrix: as long as the local axis, it weights the elements of every
        device alike, and the devices are added; as long as that axis of all devices (of the group) together, it has a
        row and a column for each of their elements, in the order of the devices.
    mask, masked_output, unit, out_unit, dtype, name
        As in every norm: see :mod:`braindnorm.functional`. What is masked leaves the pool; with 'normalize' it responds
        to the pool of the valid ones. Where nothing is pooled, :math:`R = \gamma D^n / \sigma^n`.

    Returns
    -------
    Array or Quantity
        R, of the shape of `x`, in `out_unit`. It is 0 where the whole denominator is. A drive that is NaN or infinite
        makes all of its pools NaN, and a sigma the responses that it divides.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    Notes
    -----
    Each element has a scale of its own, by which drive, sigma and pool are divided before the power: so no :math:`D^n`
    overflows, and none is lost beside a much stronger one that is not in its pool (with a matrix: down to 1e-24 of the
    strongest in float32, and weights up to 1e10). With :math:`n = 2` and the mean, R is the square of
    :func:`~braindnorm.functional.rms_norm` with epsilon = sigma.

    References
    ----------
    .. [1] Carandini, M. and Heeger, D. J. (2012). Normalization as a canonical neural computation. Nat. Rev. Neurosci.
       13, 51-62. doi:10.1038/nrn3136
    .. [2] Heeger, D. J. (1992). Normalization of cell responses in cat striate cortex. Vis. Neurosci. 9, 181-197.
       doi:10.1017/S0952523800009640

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import divisive_norm
    >>> divisive_norm(jnp.array([10., 30.]) * u.Hz, sigma=20. * u.Hz, gamma=14. * u.Hz, pool="sum").round(1)
    Quantity([1. 9.], "Hz")
    """
    check_axis_name(axis_name, axis_index_groups)
    check_exponent(exponent, rectify)
    check_flag("stop_statistics_gradient", stop_statistics_gradient)
    kind, weights = read_pool(pool)
    mantissa, reference = units.strip(x, units.check_unit(unit, option="unit"))
    gain, gain_unit = units.strip_parameters({"gamma": gamma}, units.check_unit(out_unit, option="out_unit"))
    out_unit = reference if gain_unit is None else gain_unit
    array = real_array(mantissa)
    reduction = Reduction(canonical_axes(pool_axes, array.ndim, option="pool_axes"))
    reduction = reduction._replace(axis_name=axis_name, axis_index_groups=axis_index_groups)
    parameters = {
        "sigma": in_drive_unit(sigma, reference),
        "gamma": real_parameter(gain["gamma"], "gamma"),
    }
    # a change of prefix may have widened it
    arrived = array if unit is None else real_array(units.strip(x, None)[0])
    result = result_dtype([arrived, *parameters.values()], dtype)
    valid = align(mask, array.shape)
    padding = padding_of(array, masked_output, reference, out_unit)
    response = Response(float(exponent), kind, bool(rectify), bool(stop_statistics_gradient))
    r = _response(array, parameters, valid, weights, reduction, response, result, keep_padding=padding is None)
    if valid is not None and padding is not None:
        r = jnp.where(valid, r, padding.astype(result))
    return units.restore(r, out_unit)


def _response(
    array: jax.Array,
    parameters: Mapping[str, Mantissa],
    valid: jax.Array | None,
    weights: Mantissa | None,
    reduction: Reduction,
    response: Response,
    result: Dtype,
    *,
    keep_padding: bool,
) -> jax.Array:
    """Bring all to the shape and dtype of the arithmetic, and back."""
    wide = arithmetic_dtype(array.dtype, result)
    fitted = [fit_parameter(value, array.shape, option=option).astype(wide) for option, value in parameters.items()]
    if weights is not None:
        weights = _fit_weights(weights, array.shape, reduction).astype(wide)
    seen = valid | jnp.isfinite(array) if valid is not None and keep_padding else valid
    drive = zero_masked(array, seen).astype(wide)
    sigma, gamma = fitted
    if reduction.axis_name is None:
        r: jax.Array = _compiled(reduction, response, drive, sigma, gamma, valid, weights)
    else:
        r = respond(reduction, response, drive, sigma, gamma, valid, weights)
    return r.astype(result)


def _fit_weights(weights: Mantissa, shape: Shape, reduction: Reduction) -> jax.Array:
    rows = jnp.shape(weights)[0]
    alone = reduction.axis_name is None  # a matrix may be that of the elements of all devices
    if len(reduction.axes) != 1 or (alone and shape[reduction.axes[0]] != rows):
        raise AxisError(
            f"a pool of {jnp.shape(weights)} weights needs one pool axis of length {rows}; got"
            f" pool_axes={reduction.axes} of an input of shape {shape}."
        )
    return jnp.asarray(weights)
