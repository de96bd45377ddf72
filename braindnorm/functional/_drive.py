"""Into a divisive normalization, and out of it: checks, units, dtype, mask."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import Axes, canonical_axes, fit_parameter
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction, zero_masked
from .._numerics.pools import Response
from ..errors import AxisError
from ..masks._align import align
from ..units import Dtype, DtypeLike, Mantissa, MaskLike, QuantityLike, Result, Shape, Unit
from ._divisive_options import check_exponent, in_drive_unit, read_pool, real_parameter
from ._dtypes import arithmetic_dtype, real_array, result_dtype
from ._enter import MaskedOutput, check_flag, padding_of
from ._reduction import check_axis_name

Pool = Literal["mean", "sum"] | QuantityLike


class Drive(NamedTuple):
    """A drive inside a divisive normalization: plain arrays, in the dtype of the arithmetic, and what goes on again.

    `x` is 0 where it is masked, unless the padding responds too (`padding` is then None).
    """

    x: jax.Array
    sigma: jax.Array
    gamma: jax.Array
    valid: jax.Array | None
    weights: jax.Array | None
    reduction: Reduction
    response: Response
    result: Dtype
    padding: jax.Array | np.ndarray | None
    out_unit: Unit


def enter_drive(
    x: QuantityLike,
    sigma: QuantityLike,
    gamma: QuantityLike,
    *,
    exponent: float,
    pool_axes: Axes,
    pool: Pool,
    rectify: bool,
    mask: MaskLike | None,
    masked_output: MaskedOutput,
    unit: Unit | None,
    out_unit: Unit | None,
    axis_name: AxisName | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
    dtype: DtypeLike | None,
    stop_statistics_gradient: bool,
) -> Drive:
    """Take a drive and its parameters in: the options of :func:`braindnorm.functional.divisive_norm`."""
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
    plain = {"sigma": in_drive_unit(sigma, reference), "gamma": real_parameter(gain["gamma"], "gamma")}
    # a change of prefix may have widened it
    arrived = array if unit is None else real_array(units.strip(x, None)[0])
    result = result_dtype([arrived, *plain.values()], dtype)
    valid = align(mask, array.shape)
    padding = padding_of(array, masked_output, reference, out_unit)
    wide = arithmetic_dtype(array.dtype, result)
    sigma, gamma = (fit_parameter(v, array.shape, option=key).astype(wide) for key, v in plain.items())
    matrix = None if weights is None else _fit_weights(weights, array.shape, reduction).astype(wide)
    seen = valid | jnp.isfinite(array) if valid is not None and padding is None else valid
    response = Response(float(exponent), kind, bool(rectify), bool(stop_statistics_gradient))
    entered = zero_masked(array, seen).astype(wide)
    return Drive(entered, sigma, gamma, valid, matrix, reduction, response, result, padding, out_unit)


def leave_drive(r: jax.Array, drive: Drive) -> Result:
    """Return a response as the caller gets it."""
    r = r.astype(drive.result)
    if drive.valid is not None and drive.padding is not None:
        r = jnp.where(drive.valid, r, drive.padding.astype(drive.result))
    return units.restore(r, drive.out_unit)


def _fit_weights(weights: Mantissa, shape: Shape, reduction: Reduction) -> jax.Array:
    rows = jnp.shape(weights)[0]
    alone = reduction.axis_name is None  # a matrix may be that of the elements of all devices
    if len(reduction.axes) != 1 or (alone and shape[reduction.axes[0]] != rows):
        raise AxisError(
            f"a pool of {jnp.shape(weights)} weights needs one pool axis of length {rows}; got"
            f" pool_axes={reduction.axes} of an input of shape {shape}."
        )
    return jnp.asarray(weights)
