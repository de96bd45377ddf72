"""A sum over the devices of a mapped axis, or over groups of them."""

import operator
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from brainstate.transform import in_new_state_probe

from ..errors import AxisNameError, OptionError

AxisName = Hashable | tuple[Hashable, ...]


def sum_devices(v: jax.Array, axis_name: AxisName, groups: Sequence[Sequence[int]] | None) -> jax.Array:
    """Sum `v` over a mapped axis, in one all-reduce.

    Parameters
    ----------
    v : Array
        The local sums.
    axis_name : hashable or tuple of hashable
        The axis that ``vmap``, ``pmap`` or ``shard_map`` binds, or several.
    groups : sequence of sequence of int or None
        Indices along the axis that are summed together, of even or uneven size. JAX refuses such groups under ``vmap``
        and under ``shard_map(check_vma=True)``, so they are made from a sum in which every group has a row of its own.

    Raises
    ------
    AxisNameError
        If the axis is not bound here, or cannot be reduced here.
    OptionError
        If the groups do not cover the axis once each.
    """
    size = _axis_size(axis_name)
    if size is None:
        return v
    group_of = None if groups is None else _group_of(groups, size)
    try:
        return _all_sum(v, axis_name) if group_of is None else _group_sum(v, axis_name, group_of)
    except (AssertionError, KeyError, ValueError) as error:  # which of them depends on the version of JAX
        raise AxisNameError(
            f"axis_name={axis_name!r} is bound by a vmap inside shard_map(check_vma=True), and JAX cannot sum"
            " over it there. Write shard_map(..., check_vma=False), or give the norm the mesh axis alone and reduce"
            " the vmapped one as an axis of the input (reduction_axes)."
        ) from error


def varying(v: jax.Array, axis_name: AxisName) -> jax.Array:
    """Return `v` as a value that every device has for itself, along each of the axes.

    Under ``shard_map(check_vma=True)`` the backward pass sums over the devices at the place where what they share
    becomes what each has for itself: this call chooses the place. Without check_vma it changes nothing.
    """
    try:
        index = jax.lax.axis_index(axis_name)  # it varies, and so does what is chosen by it
    except NameError:  # while brainstate looks for new states
        return v
    return jnp.where(index >= 0, v, 0)


def place_among_devices(
    axis_name: AxisName | None, groups: Sequence[Sequence[int]] | None
) -> tuple[jax.Array, int | None]:
    """Return the place of this device along a mapped axis or in its group, and how many there are.

    On one device it is the first of 1; while brainstate only looks for new states, the first of None.

    Raises
    ------
    OptionError
        If the groups do not cover the axis once each, or are not of one length.
    """
    size = 1 if axis_name is None else _axis_size(axis_name)
    if axis_name is None or size is None:
        return jnp.zeros((), jnp.int32), size
    index = jax.lax.axis_index(axis_name)
    if groups is None:
        return index, size
    group_of = _group_of(groups, size)
    sizes = {len(group) for group in groups}
    if len(sizes) > 1:
        raise OptionError(
            f"axis_index_groups={groups!r} are of different length, but the matrix is one for all of them. Give"
            " groups of one length, or a matrix for the elements of one device."
        )
    places = np.zeros_like(group_of)
    for group in groups:
        places[list(group)] = range(len(group))
    return jnp.asarray(places)[index], sizes.pop()


def _all_sum(v: jax.Array, axis_name: AxisName) -> jax.Array:
    # JAX refuses to sum over an axis along which v varies together with one along which it does not
    mine = varying(v, axis_name) if isinstance(axis_name, tuple) else v
    summed: jax.Array = jax.lax.psum(mine, axis_name)
    return summed


def _group_sum(v: jax.Array, axis_name: AxisName, group_of: np.ndarray) -> jax.Array:
    mine = jnp.asarray(group_of)[jax.lax.axis_index(axis_name)]
    rows = jnp.arange(group_of.max() + 1).reshape(-1, *[1] * v.ndim)
    # where, not multiply: a NaN stays in its group
    summed = jax.lax.psum(jnp.where(rows == mine, v[None], 0), axis_name)
    return jnp.sum(jnp.where(rows == mine, summed, 0), axis=0)


def _axis_size(axis_name: AxisName) -> int | None:
    """Return the length of a bound axis; None while brainstate only looks for new states."""
    try:
        return int(jax.lax.psum(1, axis_name))
    except NameError:
        if in_new_state_probe():
            return None
        raise AxisNameError(
            f"the statistics are summed over axis_name={axis_name!r}, but no such axis is bound here. Call it inside"
            f" brainstate.transform.vmap(f, axis_name={axis_name!r}), or inside brainstate.transform.shard_map over a"
            " mesh with that axis; or build the norm with axis_name=None."
        ) from None


def _group_of(groups: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Return for each index of the axis the number of its group."""
    try:
        rows = [[operator.index(index) for index in group] for group in groups]
    except TypeError:
        raise OptionError(
            f"axis_index_groups must be a list of lists of integers, such as [[0, 1], [2, 3]]; got {groups!r}."
        ) from None
    if sorted(index for row in rows for index in row) != list(range(size)):
        raise OptionError(
            f"axis_index_groups={rows} must hold each index of an axis of length {size} exactly once, that is 0"
            f" to {size - 1}."
        )
    group_of = np.empty(size, np.int32)
    for number, row in enumerate(rows):
        group_of[row] = number
    return group_of
