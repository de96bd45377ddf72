"""Masks of trials: from how many steps each has, when it ends, or where its recording has gaps."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes, canonical_axes
from ..errors import MaskError, OptionError, named
from ..units import UNITLESS, QuantityLike, exact, is_masked, strip, unwrap
from ._edges import before, in_one_unit


@named("from_lengths")
def from_lengths(lengths: QuantityLike, num_steps: SupportsIndex) -> jax.Array:
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
        If lengths are not integers, or (where their values are known) not between 0 and T; or if T is no such number.

    Examples
    --------
    >>> from braindnorm.masks import from_lengths
    >>> from_lengths([1, 3], 3).astype(int)
    Array([[1, 1],
           [0, 1],
           [0, 1]], dtype=int32)
    """
    steps, counts = _num_steps(num_steps), _integers(lengths)
    traced = isinstance(counts, jax.Array) and (isinstance(counts, jax.core.Tracer) or not counts.is_fully_addressable)
    if not traced:
        counts = np.asarray(counts)
        if counts.size and not 0 <= int(counts.min()) <= int(counts.max()) <= steps:
            raise MaskError(f"lengths must lie between 0 and num_steps={steps}; got {counts.min()} to {counts.max()}.")
    elif counts.dtype.itemsize >= 4:  # unsigned ones would wrap
        counts = jnp.clip(counts, 0, steps)
    lasts: jax.Array = jnp.arange(steps).reshape(-1, *[1] * counts.ndim) < counts.astype(jnp.result_type(int))
    return lasts


@named("from_end_times")
def from_end_times(
    end_times: QuantityLike,
    times: QuantityLike | None = None,
    *,
    dt: QuantityLike | None = None,
    num_steps: SupportsIndex | None = None,
) -> jax.Array:
    """Mask the steps at and after the end of each trial, given in time.

    Parameters
    ----------
    end_times : Quantity or array_like
        When each trial ends, of any shape.
    times : Quantity or array_like, optional
        The time of each step, of shape (T,), in any unit of the same dimension.
    dt, num_steps : Quantity or float, and int, optional
        Instead of `times`: the steps are at 0, `dt`, 2 `dt`, ..., and there are T of them. Prefer it: times that were
        computed in float32 are rounded, and these are not.

    Returns
    -------
    Array
        Booleans of shape ``(T, *end_times.shape)``: True at the steps before the end.

    Raises
    ------
    MaskError
        If times is not one-dimensional. If an end cannot be told from its neighbours, since times of this size are
        rounded to more than half of a step (where values are known; see Notes).
    OptionError
        If neither `times` nor `dt` and `num_steps` are given, or both; if `dt` is not one positive number.
    UnitError
        If one is in a unit of another dimension than the other.

    Notes
    -----
    An end within a thousandth of a step of a step is at that step, which is then masked; so is one within four
    roundings of its time (float32: 5e-7 of it). A time after a million steps or more is so coarse in float32 that the
    step cannot be told: an error, where values are known. In a compiled function they are not, and the end may be off
    by as many steps as a rounding is long. What was added up step by step (``t += dt``) is off by more: use `dt`.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.masks import from_end_times
    >>> from_end_times(jnp.array([1., 2.5]) * u.ms, jnp.arange(3) * 1000. * u.us).astype(int)
    Array([[1, 1],
           [0, 1],
           [0, 1]], dtype=int32)
    >>> from_end_times([0.1, 0.3] * u.ms, dt=0.1 * u.ms, num_steps=4).sum(0)
    Array([1, 3], dtype=int32)
    """
    if (times is None) == (dt is None) or (dt is None) != (num_steps is None):
        raise OptionError("give times, the time of each step, or else both dt and num_steps.")
    if dt is not None:
        compared = in_one_unit(end_times=end_times, dt=dt)
        ends, step = compared.values.values()
        if step.ndim or (isinstance(step, np.ndarray) and not 0 < step < np.inf):
            raise OptionError(f"dt must be one positive number or time; got {dt!r}.")
        return before(np.arange(_num_steps(num_steps)) * step, ends, compared, step=step)
    compared = in_one_unit(end_times=end_times, times=() if times is None else times)
    ends, step_times = compared.values.values()
    if step_times.ndim != 1:
        raise MaskError(f"times must have one axis, the steps; got shape {step_times.shape}.")
    return before(step_times, ends, compared)


@named("from_nan")
def from_nan(x: QuantityLike, axes: Axes = ()) -> jax.Array:
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
    mantissa, _ = strip(x, None)
    present = ~jnp.isnan(jnp.asarray(mantissa))
    along = canonical_axes(axes, present.ndim, option="axes")
    return jnp.all(present, axis=along, keepdims=True)


def _integers(lengths: QuantityLike) -> jax.Array | np.ndarray:
    """Return lengths as an array of integers, of JAX or numpy, at their true value."""
    if is_masked(lengths):
        raise MaskError("lengths are a masked array of numpy, whose mask would be lost. Write lengths.filled(0).")
    try:
        if not strip(lengths, None)[1] == UNITLESS:
            raise MaskError(
                f"lengths are numbers of steps, without a unit; got {lengths!r}. For times write"
                " from_end_times(end_times, dt=dt, num_steps=num_steps)."
            )
        counts = exact(unwrap(lengths))
    except TypeError as error:
        raise MaskError(f"lengths must be integers (numbers of steps); got {lengths!r}.") from error
    counts = counts if isinstance(counts, jax.Array) else np.asarray(counts)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise MaskError(f"lengths must be integers (numbers of steps); got dtype {counts.dtype}.")
    return counts


def _num_steps(num_steps: SupportsIndex | None) -> int:
    try:
        steps = -1 if num_steps is None or isinstance(num_steps, bool | np.bool_) else operator.index(num_steps)
    except TypeError:
        steps = -1
    if steps < 0:
        raise MaskError(f"num_steps must be an integer, zero or larger; got {num_steps!r}.")
    return steps
