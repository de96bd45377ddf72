"""How many groups of channels are here, where a device may hold a part of the channels."""

from typing import TYPE_CHECKING

from .. import units
from ..errors import OptionError

if TYPE_CHECKING:
    from .group_norm import GroupNorm


def local_groups(layer: "GroupNorm", x: units.QuantityLike) -> int:
    """Return the number of groups that the channels of `x` make, of all those that `in_size` says there are.

    A device holds whole groups, or an equal part of one: the devices that hold the rest are then those of its row in
    `axis_index_groups`.

    Raises
    ------
    OptionError
        If the channels that are here neither hold whole groups nor divide one, if the rest of a group is out of reach
        (no `axis_name`), or if nothing says which devices hold channels of the same group: the sum over all of
        `axis_name` would mix groups.
    """
    whole, size, shape = layer.in_size[layer.feature_axis], layer.group_size, units.shape_of(x)
    channels = shape[layer.feature_axis] if len(shape) >= -layer.feature_axis else whole
    if channels % size and size % channels:
        raise OptionError(
            f"{channels} of {whole} channels are here, and groups have {size}. Shard the channels so"
            f" that each device holds whole groups or an equal part of one, or choose another group_size."
        )
    if channels < size and layer.axis_name is None:
        raise OptionError(
            f"{channels} of {whole} channels are here, but groups have {size}. Build the norm with"
            f" axis_name, the mesh axis that shards the channels{_and_groups(layer, channels)}."
        )
    if channels < whole and size < whole and layer.axis_name is not None and layer.axis_index_groups is None:
        raise OptionError(_undecided(layer, channels))
    return 1 if channels < size else int(channels // size)


def _undecided(layer: "GroupNorm", channels: int) -> str:
    whole, size = layer.in_size[layer.feature_axis], layer.group_size
    message = (
        f"{channels} of {whole} channels are here, groups have {size}, and a sum over all of"
        f" axis_name={layer.axis_name!r} would mix different groups. Build the norm with"
    )
    if channels < size:
        return f"{message} axis_index_groups={_rows(whole, channels, size)}, if that axis shards the channels in order."
    return (
        f"{message} axis_name=None if that axis shards the channels (each device holds whole groups), or with"
        f" axis_index_groups=[[0, 1, ...]], one row of every index of that axis, if it shards anything else."
    )


def _and_groups(layer: "GroupNorm", channels: int) -> str:
    whole, size = layer.in_size[layer.feature_axis], layer.group_size
    return f", and axis_index_groups={_rows(whole, channels, size)}" if size < whole else ""


def _rows(whole: int, channels: int, size: int) -> list[list[int]]:
    """Return which of the devices that share the channels in order hold each group."""
    part = size // channels
    return [list(range(first, first + part)) for first in range(0, whole // channels, part)]
