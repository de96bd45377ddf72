"""What the statistics of an input run over."""

from collections.abc import Hashable, Sequence
from typing import SupportsIndex

import numpy as np

from .._numerics.axes import Axes, canonical_axes, single_axis, split_groups
from .._numerics.counts import counts_of
from .._numerics.moments import Reduction
from ..errors import OptionError
from ..units import Shape
from ._enter import NormOptions


def reduction_over(
    shape: Sequence[int],
    axes: Axes,
    options: NormOptions,
    *,
    option: str = "reduction_axes",
) -> Reduction:
    """Return the reduction of an array of this shape over some axes, and over the devices of a mapped axis."""
    axis_name, groups = options.get("axis_name"), options.get("axis_index_groups")
    check_axis_name(axis_name, groups)
    counted = canonical_axes(axes, len(shape), option=option)
    return Reduction(counted, axis_name=axis_name, axis_index_groups=groups)


def grouped_reduction(
    shape: Sequence[int],
    axes: Axes | None,
    feature_axis: Axes,
    groups: tuple[SupportsIndex | None, SupportsIndex | None],
    options: NormOptions,
) -> Reduction:
    """Return the reduction within groups of channels; `groups` is the number of groups or the size of each.

    With `axes` None it runs over every axis but the leading one, the batch, unless that holds the channels.
    """
    channel = single_axis(canonical_axes(feature_axis, len(shape), option="feature_axis"))
    num_groups, _ = split_groups(shape[channel], *groups)
    if axes is None:
        axes = tuple(range(1 if channel else 0, len(shape)))
    whole = reduction_over(shape, axes, options)
    others = tuple(axis for axis in whole.axes if axis != channel)
    return whole._replace(axes=others, channel_axis=channel, num_groups=num_groups)


def counted(reduction: Reduction, shape: Shape, constant: np.ndarray | None) -> Reduction:
    """Return the reduction with the counts of a mask that is a constant of the program, if it is one."""
    if constant is None:
        return reduction
    over = reduction.axes, reduction.channel_axis, reduction.num_groups
    return reduction._replace(counts=counts_of(shape, constant, *over))


def on_one_device(reduction: Reduction, shape: Shape, constant: np.ndarray | None) -> Reduction:
    """Return what of a reduction is left where one device has all the data, with the counts of a constant mask.

    All channels in one group are an axis like any other.
    """
    axes, channel, groups = reduction.axes, reduction.channel_axis, reduction.num_groups
    if channel is not None and groups == 1:
        axes, channel = tuple(sorted((*axes, channel))), None
    return counted(Reduction(axes, channel, groups), shape, constant)


def check_axis_name(axis_name: object, groups: object) -> None:
    """Raise if `axis_name` cannot be the name of a mapped axis, or names; to JAX an integer is a place."""
    if axis_name is None and groups is not None:
        raise OptionError(
            f"axis_index_groups={groups!r} divides a mapped axis, but axis_name is None. Name the axis, or"
            " leave the groups out."
        )
    for one in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        if isinstance(one, int | np.integer) or not isinstance(one, Hashable):
            raise OptionError(
                f"axis_name must be the name of a mapped axis such as 'batch', a tuple of names or None; got"
                f" {axis_name!r}. Axes of the input go to reduction_axes."
            )
