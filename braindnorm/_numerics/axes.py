"""Which axes: of the input, of the parameters, and of a channel that is split into groups."""

import math
import operator
import sys
from collections.abc import Sequence
from typing import SupportsIndex, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..errors import AxisError, OptionError
from ..units import Mantissa, Shape

# one axis or several, of any integer type
Axes = SupportsIndex | Sequence[SupportsIndex]
# an array, or also None
MaybeArray = TypeVar("MaybeArray", jax.Array, jax.Array | None, np.ndarray | None)


class _Default(int):
    """A default that can be told from the same number given by the caller."""


DEFAULT_GROUPS = _Default(32)


def as_axes(axes: Axes, *, option: str) -> Shape:
    """Read one axis or several as a tuple of integers, any integer type taken."""
    several = axes if _is_several(axes) else (axes,)
    try:
        return tuple(as_int(axis) for axis in several)
    except TypeError:
        raise AxisError(f"{option} must be an integer or a sequence of integers; got {axes!r}.") from None


def canonical_axes(axes: Axes, ndim: int, *, option: str) -> Shape:
    """Count axes from the left of an array of `ndim` axes, sorted.

    Raises
    ------
    AxisError
        If an axis is out of range or named twice.
    """
    several = as_axes(axes, option=option)
    outside = [axis for axis in several if not -ndim <= axis < ndim]
    if outside:
        raise AxisError(f"{option}={axes!r} has no axis {outside[0]} in an array of {ndim} axes.")
    counted = sorted(axis % ndim for axis in several)
    if len(set(counted)) != len(counted):
        raise AxisError(f"{option}={axes!r} names an axis of an array of {ndim} axes twice.")
    return tuple(counted)


def is_trailing(axes: Sequence[int], ndim: int) -> bool:
    """Tell whether axes, counted from the left and sorted, are the last of an array of `ndim` axes."""
    return bool(axes) and tuple(axes) == tuple(range(ndim - len(axes), ndim))


def as_size(size: Axes) -> Shape:
    """Read `in_size`: a positive integer, or several.

    Raises
    ------
    AxisError
        If it is empty, not made of integers, or has one below 1.
    """
    several = size if _is_several(size) else (size,)
    try:
        sizes = tuple(as_int(n) for n in several)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > sys.maxsize:
        raise AxisError(f"in_size must be a positive integer or a tuple of them, such as (128,); got {size!r}.")
    return sizes


def feature_shape(in_size: Sequence[int], feature_axes: Sequence[int]) -> Shape:
    """Return the shape of scale and bias: `in_size` on the feature axes, 1 elsewhere."""
    return tuple(n if axis in feature_axes else 1 for axis, n in enumerate(in_size))


def single_axis(axes: Sequence[int]) -> int:
    """Return the one axis there is; channels are split along one axis alone."""
    if len(axes) != 1:
        raise AxisError(f"feature_axis must be one axis, that of the channels; got {tuple(axes)}.")
    return axes[0]


def fit_parameter(parameter: Mantissa, shape: Sequence[int], *, option: str) -> jax.Array:
    """Return a scale or bias that broadcasts to an input of this shape, without leading axes of length 1 to spare.

    Raises
    ------
    AxisError
        If it does not broadcast to the input, or would enlarge it.
    """
    array = parameter if isinstance(parameter, jax.Array) else jnp.asarray(parameter)
    if array.shape == shape[len(shape) - array.ndim :]:  # nearly every call
        return array
    spare = max(array.ndim - len(shape), 0)
    right = array.shape[spare:]
    fits = all(p in (1, n) for p, n in zip(reversed(right), reversed(shape), strict=False))
    if not fits or set(array.shape[:spare]) - {1}:
        raise AxisError(
            f"{option} of shape {array.shape} does not broadcast to an input of shape {tuple(shape)}. Its axes"
            " count from the right, and each is 1 or as long as the input's."
        )
    return array.reshape(right) if spare else array


def leading_ones(v: MaybeArray, ndim: int) -> MaybeArray:
    """Return an array (or None) with axes of length 1 before its own, as broadcasting would give them to it."""
    return v if v is None or v.ndim >= ndim else v.reshape((1,) * (ndim - v.ndim) + v.shape)


def split_groups(channels: int, num_groups: SupportsIndex | None, group_size: SupportsIndex | None) -> tuple[int, int]:
    """Resolve the number of groups and the channels in each.

    Raises
    ------
    OptionError
        If not exactly one of the two is given, or the one given does not divide the channels.
    AxisError
        If there are no channels.
    """
    if channels < 1:
        raise AxisError("the channel axis has length 0, and a group needs at least one channel.")
    if group_size is not None and num_groups is DEFAULT_GROUPS:  # which a group_size alone overrides
        num_groups = None
    if (num_groups is None) == (group_size is None):
        raise OptionError(
            f"give num_groups or group_size, and None for the other; got num_groups={num_groups!r},"
            f" group_size={group_size!r}."
        )
    option, number = ("group_size", group_size) if num_groups is None else ("num_groups", num_groups)
    try:
        part = as_int(number)
    except TypeError:
        raise OptionError(f"{option} must be an integer; got {number!r}.") from None
    if part < 1 or channels % part:
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        raise OptionError(f"{option}={part} does not divide the {channels} channels. Choose one of {divisors}.")
    return (part, channels // part) if option == "num_groups" else (channels // part, part)


def sum_groups(v: jax.Array, channel_axis: int, num_groups: int) -> jax.Array:
    """Sum `v` over the channels of each group, and give the sum to every channel of the group."""
    whole = _gather_split_groups(v, channel_axis, num_groups)
    before, channels, after = v.shape[:channel_axis], v.shape[channel_axis], v.shape[channel_axis + 1 :]
    grouped = whole.reshape(*before, num_groups, channels // num_groups, *after)
    summed = jnp.sum(grouped, axis=channel_axis + 1, keepdims=True)
    spread = jnp.broadcast_to(summed, grouped.shape).reshape(v.shape)
    return spread if whole is v else jax.sharding.reshard(spread, jax.typeof(v).sharding)


def split_channels(v: MaybeArray, channel_axis: int, num_groups: int) -> MaybeArray:
    """Split the channel axis, counted from the right, in groups and their channels; one of length 1 in (1, 1)."""
    if v is None or v.ndim < -channel_axis:
        return v
    at = v.ndim + channel_axis
    groups = num_groups if v.shape[at] > 1 else 1
    return v.reshape(*v.shape[:at], groups, v.shape[at] // groups, *v.shape[at + 1 :])


def one_of_each_group(v: jax.Array, channel_axis: int, num_groups: int) -> jax.Array:
    """Keep one channel of each group, where all channels of a group hold the same."""
    return jax.lax.slice_in_dim(v, 0, None, v.shape[channel_axis] // num_groups, channel_axis)


def _gather_split_groups(v: jax.Array, channel_axis: int, num_groups: int) -> jax.Array:
    """Put the channels of `v` on every device, if mesh axes of type Explicit split some group: JAX reshapes no such."""
    sharding = jax.typeof(v).sharding
    spec = list(sharding.spec)
    names = spec[channel_axis] or ()
    shards = math.prod(sharding.mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))
    if num_groups % shards == 0:
        return v
    spec[channel_axis] = None
    gathered: jax.Array = jax.sharding.reshard(v, NamedSharding(sharding.mesh, PartitionSpec(*spec)))
    return gathered


def _is_several(axes: object) -> TypeGuard[Sequence[SupportsIndex]]:
    return bool(axes.ndim) if isinstance(axes, np.ndarray) else isinstance(axes, list | tuple)


def as_int(value: object) -> int:
    """Return an integer of any type; a boolean is not one."""
    if isinstance(value, bool | np.bool_):
        raise TypeError("a boolean is not an integer here")
    return operator.index(value)  # type: ignore[arg-type]  # it raises TypeError where there is none
