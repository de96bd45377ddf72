"""Into a divisive normalization: what it takes besides the options of every norm, as arrays that fit the input."""

from typing import Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from .._numerics.axes import Axes, fit_parameter
from .._numerics.moments import Reduction
from .._numerics.pools import Response
from ..errors import AxisError
from ..units import Mantissa, QuantityLike, Shape
from ._divisive_options import check_exponent, not_negative, read_pool, real_parameter
from ._enter import Entry, NormOptions, check_flag, enter
from ._reduction import check_axis_name, counted, reduction_over
from ._standardize import without_padding

Pool = Literal["mean", "sum"] | QuantityLike


class Drive(NamedTuple):
    """A drive inside a divisive normalization: plain arrays in the dtype of the arithmetic.

    `x` is 0 where it is masked, unless the padding responds too.
    """

    entry: Entry
    x: jax.Array
    sigma: jax.Array
    gamma: jax.Array
    weights: jax.Array | None
    reduction: Reduction
    response: Response


def enter_drive(
    x: QuantityLike,
    sigma: QuantityLike,
    gamma: QuantityLike,
    *,
    exponent: float,
    pool_axes: Axes,
    pool: Pool,
    rectify: bool,
    **options: Unpack[NormOptions],
) -> Drive:
    """Take a drive and its parameters in, as :func:`braindnorm.functional.divisive_norm` documents them."""
    check_axis_name(options.get("axis_name"), options.get("axis_index_groups"))
    check_exponent(exponent, rectify)
    constant = options.get("stop_statistics_gradient", False)
    check_flag("stop_statistics_gradient", constant)
    kind, weights = read_pool(pool)
    gain, added = real_parameter(gamma, "gamma"), real_parameter(sigma, "sigma")
    entry = enter(x, {"gamma": gain}, options, {"sigma": added})
    added = not_negative(entry.input_parameters["sigma"], added)
    shape, dtype = entry.x.shape, entry.dtype
    reduction = counted(reduction_over(shape, pool_axes, options, option="pool_axes"), shape, entry.constant)
    plain_sigma, plain_gamma = (
        fit_parameter(value, shape, option=option).astype(dtype)
        for option, value in {"sigma": added, **entry.parameters}.items()
        if value is not None
    )
    matrix = None if weights is None else _fit_weights(weights, shape, reduction).astype(dtype)
    drive = without_padding(entry.x, entry.valid, entry.padding is None).astype(dtype)
    response = Response(float(exponent), kind, bool(rectify), bool(constant))
    return Drive(entry, drive, plain_sigma, plain_gamma, matrix, reduction, response)


def _fit_weights(weights: Mantissa, shape: Shape, reduction: Reduction) -> jax.Array:
    rows = jnp.shape(weights)[0]
    alone = reduction.axis_name is None  # a matrix may be that of the elements of all devices
    if len(reduction.axes) != 1 or (alone and shape[reduction.axes[0]] != rows):
        raise AxisError(
            f"a pool of {jnp.shape(weights)} weights needs one pool axis of length {rows}; got"
            f" pool_axes={reduction.axes} of an input of shape {shape}."
        )
    return jnp.asarray(weights)
