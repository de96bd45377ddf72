"""How the kernels see an array: batch, space, groups, channels, tail."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics.axes import is_trailing, one_of_each_group
from .._numerics.moments import Reduction, whole_groups
from ..units import Shape

# XLA is as fast where a row has fewer elements, where all rows have no more than so many together (in the step of a
# loop; by itself a norm gains at any size), and where the batch is shorter: its elements are the tasks that the
# processors share.
SHORT, SMALL, FEW = 16, 2048, 4
# The same for columns of fewer elements, however many they are.
LOW = 8
# Parameters that are the same for parts of a row with fewer elements are repeated, to be as long as the row.
PART = 64


class View(NamedTuple):
    """An array as [batch][space][groups][channels][tail], one of space and tail being 1.

    Statistics run over space, channels and tail. There is one scale and one bias for each channel of each group, in
    arrays of shape `parameter`. Where the groups are columns, which lie apart, each is one channel, and what is kept
    of them are arrays of five numbers each: the mean, its rest, r, the variance and the count. Each of as many parts of
    the batch as there are `sets` has scales and biases of its own.
    """

    batch: int
    space: int
    groups: int
    channels: int
    tail: int
    parameter: Shape
    columns: bool = False
    sets: int = 1

    @property
    def lengths(self) -> np.ndarray:
        """The lengths, as the kernels are given them."""
        return np.array([self.batch, self.space, self.groups, self.channels, self.tail, self.sets], np.int64)

    @property
    def slabs(self) -> bool:
        """Whether the elements of a group lie apart, between those of others."""
        return self.space > 1 and self.groups > 1

    def in_lanes(self, several: int) -> "View":
        """Return the view of as many such arrays, each of which has parameters of its own."""
        return self._replace(batch=self.batch * several, sets=several)


@functools.lru_cache(maxsize=1024)
def view_of(reduction: Reduction, shape: Shape, parameters: tuple[Shape, ...]) -> View | None:
    """Return how the kernels see an array of this shape with parameters of these; None if they cannot."""
    if reduction.channel_axis is not None:
        view = _channels(reduction, shape, parameters)
    elif are_columns(reduction, len(shape)):
        view = _columns(reduction, shape, parameters)
    else:
        view = _rows(reduction, shape, parameters)
    if view is None or view.space * view.channels * view.tail < (LOW if view.columns else SHORT):
        return None
    return view


def is_worth_it(view: View, shape: Sequence[int]) -> bool:
    """Tell whether a kernel is faster than XLA; asked when all axes that ``vmap`` adds are there.

    Of nothing it never is: an axis that ``vmap`` adds may have length 0.
    """
    return math.prod(shape) > SMALL and (view.columns or view.batch >= FEW)


def _rows(reduction: Reduction, shape: Shape, parameters: Sequence[Shape]) -> View | None:
    """Rows of trailing axes; parameters may differ along the axes just before them, which are the groups then.

    Those of fewer axes are the same for each part of a row, if it is long enough.
    """
    if not is_trailing(reduction.axes, len(shape)) or not reduction.axes:
        return None
    ndim = max(len(_without_ones(p)) for p in parameters) if parameters else 0
    first = len(shape) - max(ndim, len(reduction.axes))
    row = len(shape) - len(reduction.axes)
    part = shape[len(shape) - ndim :]
    if 0 < ndim < len(reduction.axes) and math.prod(part) >= PART:
        return View(math.prod(shape[:row]), math.prod(shape[row : len(shape) - ndim]), 1, math.prod(part), 1, part)
    lengths = [math.prod(part) for part in (shape[:first], shape[first:row], shape[row:])]
    return View(lengths[0], 1, lengths[1], lengths[2], 1, shape[first:])


def are_columns(reduction: Reduction, ndim: int) -> bool:
    """Tell whether groups are columns: their elements lie apart, with those of others between them."""
    axes = reduction.axes
    together = bool(axes) and axes == tuple(range(axes[0], axes[-1] + 1))
    return reduction.channel_axis is None and together and axes[-1] < ndim - 1


def _columns(reduction: Reduction, shape: Shape, parameters: Sequence[Shape]) -> View | None:
    """Columns of axes that stand before others; parameters may differ along those others."""
    first, after = reduction.axes[0], reduction.axes[-1] + 1
    batch, rows, columns = (math.prod(part) for part in (shape[:first], shape[first:after], shape[after:]))
    if any(len(_without_ones(p)) > len(shape) - after for p in parameters):
        return None
    return View(batch, rows, columns, 1, 1, shape[after:], columns=True)


def _channels(reduction: Reduction, shape: Shape, parameters: Sequence[Shape]) -> View | None:
    """Channels in groups, which come last, or before all of the space."""
    channel = reduction.channel_axis or 0
    after = shape[channel + 1 :]
    parameter = (shape[channel], *[1] * len(after))
    if any(len(_without_ones(p)) > len(parameter) or set(p[len(p) - len(after) :]) - {1} for p in parameters):
        return None
    channels = shape[channel] // reduction.num_groups
    if reduction.axes == tuple(range(channel + 1, len(shape))):
        return View(math.prod(shape[:channel]), 1, reduction.num_groups, channels, math.prod(after), parameter)
    if reduction.axes == tuple(range(reduction.axes[0], channel)) and not after:
        space = math.prod(shape[reduction.axes[0] : channel])
        return View(math.prod(shape[: reduction.axes[0]]), space, reduction.num_groups, channels, 1, parameter)
    return None


def _without_ones(shape: Shape) -> Shape:
    return shape[next((axis for axis, n in enumerate(shape) if n != 1), len(shape)) :]


def spread_statistics(view: View, reduction: Reduction, shape: Shape, v: jax.Array) -> jax.Array:
    """Return the statistics, of which the kernels have some a group, along x with its reduced axes kept.

    They stand in one more axis, at the end; those of columns in the first of the reduced axes.
    """
    kept = [1 if axis in reduction.axes else n for axis, n in enumerate(shape)]
    if view.columns:
        kept[reduction.axes[0]] = v.shape[1]
        return v.reshape(kept)
    return (v if reduction.channel_axis is None else jnp.repeat(v, view.channels, axis=0)).reshape(*kept, v.shape[-1])


def split_statistics(reduction: Reduction, v: jax.Array, ndim: int) -> list[jax.Array]:
    """Return each of the statistics, for an x of as many axes, with its reduced axes kept."""
    if not are_columns(reduction, ndim):
        return [v[..., i] for i in range(v.shape[-1])]
    return jnp.split(v, v.shape[reduction.axes[0]], reduction.axes[0])


def gather_statistics(view: View, reduction: Reduction, v: jax.Array) -> jax.Array:
    """Return them as the kernels have them."""
    if view.columns:
        return v.reshape(view.batch, -1, view.groups)
    one = v if reduction.channel_axis is None else one_of_each_group(v, reduction.channel_axis, reduction.num_groups)
    return one.reshape(-1, v.shape[-1])


def mask_of(view: View, reduction: Reduction, shape: Shape, valid: jax.Array | None) -> jax.Array:
    """Return a mask as the kernels read it: an entry for each row if it holds for whole rows, else for each element."""
    if valid is None:
        return jnp.zeros(0, bool)
    if view.columns:
        after = reduction.axes[-1] + 1
        of_rows = set(valid.shape[after:]) == {1}
        return jnp.broadcast_to(valid, (*shape[:after], *valid.shape[after:]) if of_rows else shape)
    if view.slabs or not whole_groups(reduction, valid.shape):
        return jnp.broadcast_to(valid, shape)
    kept = [1 if axis in (*reduction.axes, reduction.channel_axis) else n for axis, n in enumerate(shape)]
    rows = jnp.broadcast_to(valid, kept).reshape(-1)
    return rows if reduction.channel_axis is None else jnp.repeat(rows, view.groups)
