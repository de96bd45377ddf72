"""The counts of a mask that is a constant of a program, by numpy, while the program is traced.

XLA would count it while it compiles, which takes seconds, or in every call.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..units import Shape
from .deferred import is_constant

# so many numbers or more are sooner counted in a program than compiled into it
TOO_MANY = 2**17


class Constant:
    """An array that is compared by its values, as a static argument of a program has to be."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._key = (array.shape, array.tobytes())
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


class Counts(NamedTuple):
    """How many elements of each group are valid: of all, and of those by which a pilot finds a centre."""

    whole: Constant
    part: Constant

    @property
    def missed(self) -> bool:
        """Whether some group has valid elements, but none in that part."""
        return bool(((self.part.array == 0) & (self.whole.array > 0)).any())


def counts_of(
    shape: Shape, valid: np.ndarray, axes: Sequence[int], channel_axis: int | None = None, num_groups: int = 1
) -> Counts | None:
    """Count a mask, with as many axes as an array of this shape, each as long or 1; the reduced ones are kept.

    None is returned where a program has to count it: for symbolic sizes, and for very many groups.
    """
    if not is_constant(shape):
        return None
    groups = None if channel_axis is None else (channel_axis, num_groups)
    whole = part = _count(shape, valid, axes, groups)
    if whole.size >= TOO_MANY:
        return None
    if axes:
        axis = pilot_axis(shape, valid.shape, axes)
        n = sixteenth(shape[axis])
        part = _count(
            (*shape[:axis], n, *shape[axis + 1 :]), valid.take(range(min(n, valid.shape[axis])), axis), axes, groups
        )
    return Counts(Constant(whole), Constant(part))


def pilot_axis(shape: Shape, mask_shape: Shape, axes: Sequence[int]) -> int:
    """Return the reduced axis of whose first sixteenth a pilot takes the mean, that of fewest elements.

    Best is one that the mask does not have: if a group has valid elements, so has this part of it.
    """
    free = [axis for axis in axes if mask_shape[axis] == 1] or axes
    return min(free, key=lambda axis: sixteenth(shape[axis]) / shape[axis] if is_constant(shape) and shape[axis] else 1)


def sixteenth(n: int) -> int:
    """Return the length of the first sixteenth of an axis: at most 1, or at least 4.

    XLA for CPU would make a sum of 2 or 3 anew for each element that it is subtracted from.
    """
    if not is_constant((n,)):
        return -(-n // 16)
    return max(-(-n // 16), 4) if n > 16 else min(n, 1)


def _count(shape: Shape, valid: np.ndarray, axes: Sequence[int], groups: tuple[int, int] | None) -> np.ndarray:
    repeats = math.prod(shape[axis] for axis in axes if valid.shape[axis] == 1)
    counted: np.ndarray = valid.sum(tuple(axes), keepdims=True, dtype=np.int64)
    if groups is None:
        return counted * repeats
    axis, number = groups
    size = shape[axis] // number
    if valid.shape[axis] == 1:
        return counted * (repeats * size)
    split = counted.reshape(*counted.shape[:axis], number, size, *counted.shape[axis + 1 :])
    of_groups: np.ndarray = split.sum(axis + 1).repeat(size, axis)
    return of_groups * repeats
