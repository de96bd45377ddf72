"""Masks of trials: from how many steps each has, when it ends, or where its recording has gaps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics.axes import canonical_axes
from ..errors import MaskError, UnitError
from ..units import convert, strip


def from_lengths(lengths: Any, num_steps: int) -> jax.Array:
    """Mask the steps after the end of each trial, given how many steps each has.

    Parameters
    ----------
    lengths : array_like of int
        Valid steps of each trial, of any shape, usually (batch,).
    num_steps : int
        Steps T of the padded data.

    Returns
    -------
    Array
        Booleans of shape ``(T, *lengths.shape)``, time first, as ``for_loop`` and ``scan`` run: True while a trial
        lasts.
        For data of shape (T, batch, features) write ``mask[..., None]``.

    Raises
    ------
    MaskError
        If lengths are not integers, or (where their values are known) not between 0 and T.

    Examples
    --------
    >>> from braindnorm.masks import from_lengths
    >>> from_lengths([1, 3], 3).astype(int)
    Array([[1, 1],
           [0, 1],
           [0, 1]], dtype=int32)
    """
    counts = jnp.asarray(lengths)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise MaskError(f"from_lengths: lengths must be integers (numbers of steps); got dtype {counts.dtype}.")
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 0:
        raise MaskError(f"from_lengths: num_steps must be an integer, zero or larger; got {num_steps!r}.")
    if counts.size and not isinstance(counts, jax.core.Tracer) and not 0 <= counts.min() <= counts.max() <= num_steps:
        raise MaskError(
            f"from_lengths: lengths must lie between 0 and num_steps={num_steps}; got {counts.min()} to {counts.max()}."
        )
    return _steps(num_steps, counts.ndim) < counts


def from_end_times(end_times: Any, times: Any) -> jax.Array:
    """Mask the steps at and after the end of each trial, given in time.

    Parameters
    ----------
    end_times : Quantity or array_like
        When each trial ends, of any shape.
    times : Quantity or array_like
        The time of each step, of shape (T,), in any unit of the same dimension.

    Returns
    -------
    Array
        Booleans of shape ``(T, *end_times.shape)``: True at the steps before the end.

    Raises
    ------
    MaskError
        If times is not one-dimensional.
    UnitError
        If one is in a unit of another dimension than the other.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import from_end_times
    >>> from_end_times(jnp.array([1., 2.5]) * u.ms, jnp.arange(3) * 1000. * u.us).astype(int)
    Array([[1, 1],
           [0, 1],
           [0, 1]], dtype=int32)
    """
    ends, unit = strip(end_times, None, name="from_end_times")
    steps, given = strip(times, None, name="from_end_times")
    if not given.has_same_dim(unit):
        raise UnitError(
            f"from_end_times: end_times are in {unit}, but times are in {given}. Give both in a unit of one dimension,"
            " or both as plain numbers."
        )
    ends, steps = jnp.asarray(ends), jnp.asarray(convert(steps, given, unit))
    if steps.ndim != 1:
        raise MaskError(f"from_end_times: times must have one axis, the steps; got shape {steps.shape}.")
    return steps.reshape(-1, *[1] * ends.ndim) < ends


def from_nan(x: Any, axes: Any = ()) -> jax.Array:
    """Mask the gaps of a recording, where it is NaN.

    Parameters
    ----------
    x : array_like or Quantity
        The recording.
    axes : int or tuple of int, optional
        Axes along which one NaN masks all: with ``axes=-1`` a step counts only if every channel was recorded.

    Returns
    -------
    Array
        Booleans with the axes of `x`, of length 1 along `axes`: True where nothing is missing.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm.masks import from_nan
    >>> from_nan(jnp.array([[1., jnp.nan], [2., 3.]]), axes=-1)
    Array([[False],
           [ True]], dtype=bool)
    """
    mantissa, _ = strip(x, None, name="from_nan")
    present = ~jnp.isnan(jnp.asarray(mantissa))
    along = canonical_axes(axes, present.ndim, option="axes", name="from_nan")
    return jnp.all(present, axis=along, keepdims=True)


def _steps(num_steps: int, trailing: int) -> jax.Array:
    return jnp.arange(num_steps).reshape(-1, *[1] * trailing)
