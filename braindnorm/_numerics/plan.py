"""How the fast rule is specialized: what is known of a call before any of its numbers is."""

import enum
import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from .axes import is_trailing
from .moments import Reduction, whole_groups

Shape = tuple[int, ...]

# XLA for CPU sums small arrays faster as products with ones; above this many elements as sums
SMALL = 65536
# of as many elements such a product keeps its digits; a longer one loses them, and in between that of older releases
PRODUCTS = frozenset([*range(33), *range(100, 513)])
# above this many elements it computes a norm tile by tile, if nothing stands in the way
LARGE = 2**21
# in a group of no more elements the spread may be small beside the rounding of the mean, which then shows
FEW = 64


class Centring(enum.Enum):
    """What is subtracted from x."""

    NONE = "nothing"
    MEAN = "the mean"
    PILOT = "a number near the mean, and the mean of what is left"
    TWICE = "the mean, and the mean of what its rounding left"
    COMPENSATED = "as TWICE, with a tangent of exactly 0 for a constant shift"


class Lowering(enum.Enum):
    """How the equation is written for the compiler."""

    FREE = "without barriers: GPU and TPU fuse the sums by themselves"
    BARRIERS = "with barriers where XLA for CPU would keep x - mean in memory"
    DOTS = "as BARRIERS, with sums along rows as products with ones"
    TILES = "without barriers in the value alone, which XLA for CPU then computes tile by tile"


class Plan(NamedTuple):
    """What the rule is specialized for. The arithmetic is done in `dtype`."""

    over: Reduction
    centring: Centring
    lowering: Lowering
    dtype: Any

    @property
    def centred(self) -> bool:
        """Whether the mean is subtracted."""
        return self.centring is not Centring.NONE

    @property
    def compensated(self) -> bool:
        """Whether a constant shift has a tangent of exactly 0."""
        return self.centring is Centring.COMPENSATED

    @property
    def fenced(self) -> bool:
        """Whether there are barriers."""
        return self.lowering in (Lowering.BARRIERS, Lowering.DOTS)

    def with_derivatives(self) -> "Plan":
        """Return the plan of a value that a derivative is taken beside."""
        return self._replace(lowering=Lowering.BARRIERS) if self.lowering is Lowering.TILES else self


@functools.lru_cache(maxsize=1024)
def plan_for(
    shape: Shape,
    x_dtype: Any,
    mask_shape: Shape | None,
    over: Reduction,
    *,
    centred: bool,
    compensated: bool,
    dtype: Any,
    backend: str,
) -> Plan:
    """Return the plan of a call: the one place where it is chosen."""
    dtype, on_cpu = jnp.dtype(dtype), backend == "cpu"
    lowering = _cpu_lowering(shape, over, mask_shape, centred or x_dtype != dtype) if on_cpu else Lowering.FREE
    if not centred:
        return Plan(over, Centring.NONE, lowering, dtype)
    if compensated:
        return Plan(over, Centring.COMPENSATED, lowering, dtype)
    return Plan(over, _centring(shape, mask_shape, over, on_cpu), lowering, dtype)


def _cpu_lowering(shape: Shape, over: Reduction, mask_shape: Shape | None, tiles: bool) -> Lowering:
    """Return how to lower for a CPU; `tiles` tells whether XLA computes the value tile by tile if it is large."""
    size = math.prod(shape)
    if size <= SMALL and math.prod(shape[axis] for axis in over.axes) in PRODUCTS:
        return Lowering.DOTS
    rows = over.channel_axis is None and is_trailing(over.axes, len(shape))
    return Lowering.TILES if tiles and rows and size > LARGE and mask_shape is None else Lowering.BARRIERS


def _centring(shape: Shape, mask_shape: Shape | None, over: Reduction, on_cpu: bool) -> Centring:
    if not over.axes:
        return Centring.MEAN  # of one number
    # XLA for CPU adds columns up one by one, and takes digits from the mean that a sum along rows leaves
    columns = on_cpu and not is_trailing(over.axes, len(shape))
    if not columns and not _may_be_few(shape, mask_shape, over):
        return Centring.MEAN
    return Centring.PILOT if mask_shape is None else Centring.TWICE


def _may_be_few(shape: Shape, mask_shape: Shape | None, over: Reduction) -> bool:
    """Tell whether a group may have few valid elements: a mask within groups leaves as many as it likes."""
    if mask_shape is not None and not whole_groups(over, mask_shape):
        return True
    channels = 1 if over.channel_axis is None else shape[over.channel_axis] // over.num_groups
    return channels * math.prod(shape[axis] for axis in over.axes) <= FEW
