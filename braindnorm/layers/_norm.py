"""What the norms have in common: the interface by which the rest of the package knows them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import brainstate

from .._numerics.moments import Reduction
from ..functional._enter import NormOptions
from ..units import MaskLike, QuantityLike, Result, Shape, Unit
from ._module import NormModule
from ._wiring import OPTIONS, SharedOptions


@runtime_checkable
class Norm(Protocol):
    """A layer that standardizes by moments: LayerNorm, RMSNorm, GroupNorm and their kind.

    A norm that has this interface can be wrapped by OverTime, monitored, converted and replaced.
    """

    in_size: Shape
    centred: bool
    unit: Unit | None
    out_unit: Unit | None
    epsilon: QuantityLike

    def __call__(self, x: QuantityLike, *, mask: MaskLike | None = None) -> Result:
        """Normalize `x`."""

    @property
    def affine_param(self) -> brainstate.ParamState | None:
        """The ParamState with scale and bias; None if there is nothing to learn."""

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""


class AffineModule(SharedOptions, NormModule):
    """A layer with a learned scale and bias: what these are made from. There is nothing here of what it computes."""

    feature_axes: Shape
    reduction_axes: Shape | None
    param_steps: int | None


def norm_options(layer: SharedOptions, mask: MaskLike | None = None) -> NormOptions:
    """Return the shared options of a layer as those of a functional norm."""
    options: NormOptions = {"mask": mask}
    for key in OPTIONS:
        options[key] = getattr(layer, key)  # type: ignore[literal-required]
    return options
