"""How the fast rule is specialized: what is known of a call before any of its numbers is."""

import enum
import functools
import math
import sys
from typing import NamedTuple

import jax.numpy as jnp

from ..units import Dtype, Shape
from .axes import is_trailing
from .barriers import Sizes
from .moments import Reduction, whole_groups

# in a group of no more elements the spread may be small beside the rounding of the mean, which then shows
FEW = 64
# the sizes of arrays that fit in the cache, and of those whose rows XLA for CPU normalizes tile by tile
SMALL, LARGE = range(2**18 + 1), range(2**21 + 1, sys.maxsize)


class Centring(enum.Enum):
    """What is subtracted from x."""

    NONE = "nothing"
    MEAN = "the mean"
    PILOT = "a number near the mean, and the mean of what is left"
    COMPENSATED = "the mean, and the mean of what its rounding left, with a tangent of exactly 0 for a constant shift"


class Plan(NamedTuple):
    """What the rule is specialized for.

    The arithmetic is done in `dtype`. Arrays of the sizes in `unfenced` XLA for CPU normalizes in one piece, if nothing
    stands in the way and no derivative is taken beside it.
    """

    reduction: Reduction
    centring: Centring
    unfenced: Sizes
    dtype: Dtype

    @property
    def centred(self) -> bool:
        """Whether the mean is subtracted."""
        return self.centring is not Centring.NONE

    @property
    def compensated(self) -> bool:
        """Whether a constant shift has a tangent of exactly 0."""
        return self.centring is Centring.COMPENSATED

    def with_derivatives(self) -> "Plan":
        """Return the plan of a value that a derivative is taken beside."""
        return self._replace(unfenced=())


@functools.lru_cache(maxsize=1024)
def plan_for(
    shape: Shape,
    x_dtype: Dtype,
    mask_shape: Shape | None,
    reduction: Reduction,
    *,
    centred: bool,
    compensated: bool,
    dtype: Dtype,
) -> Plan:
    """Return the plan of a call: the one place where it is chosen.

    What the platform decides, and what ``vmap`` may change, is chosen later: by sums, products and barriers.
    """
    dtype = jnp.dtype(dtype)
    if not centred:
        centring = Centring.NONE
    elif compensated:
        centring = Centring.COMPENSATED
    else:
        centring = _centring(shape, mask_shape, reduction)
    unfenced = () if mask_shape is not None else _unfenced(shape, reduction, cheap=not centred and x_dtype == dtype)
    return Plan(reduction, centring, unfenced, dtype)


def _unfenced(shape: Shape, reduction: Reduction, *, cheap: bool) -> Sizes:
    """Return the sizes for which a barrier costs more than what XLA for CPU would do twice; `cheap` is one pass."""
    middle = len(reduction.axes) == 1 and 0 < reduction.axes[0] < len(shape) - 1
    rows = reduction.channel_axis is None and (is_trailing(reduction.axes, len(shape)) or middle)
    return (SMALL, LARGE) if rows and not cheap else (SMALL,)


def _centring(shape: Shape, mask_shape: Shape | None, reduction: Reduction) -> Centring:
    channels = 1 if reduction.channel_axis is None else shape[reduction.channel_axis] // reduction.num_groups
    if channels * math.prod(shape[axis] for axis in reduction.axes) == 1:
        return Centring.MEAN  # of one number
    # XLA for CPU adds columns up one by one, and takes digits from the mean that a sum along rows leaves
    if is_trailing(reduction.axes, len(shape)) and not _may_be_few(shape, mask_shape, reduction):
        return Centring.MEAN
    return Centring.PILOT


def _may_be_few(shape: Shape, mask_shape: Shape | None, reduction: Reduction) -> bool:
    """Tell whether a group may have few valid elements: a mask within groups leaves as many as it likes."""
    if mask_shape is not None and not whole_groups(reduction, mask_shape):
        return True
    channels = 1 if reduction.channel_axis is None else shape[reduction.channel_axis] // reduction.num_groups
    return channels * math.prod(shape[axis] for axis in reduction.axes) <= FEW
