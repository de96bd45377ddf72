"""What the norms have in common: the interface by which the rest of the package knows them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .._numerics.moments import Reduction
from ..functional._enter import NormOptions
from ._wiring import OPTIONS


@runtime_checkable
class Norm(Protocol):
    """A layer that standardizes by moments: LayerNorm, RMSNorm, GroupNorm and their kind.

    A norm that has this interface can be wrapped by OverTime, monitored, converted and replaced.
    """

    in_size: tuple[int, ...]
    centred: bool
    unit: Any
    out_unit: Any
    epsilon: Any

    @property
    def affine_param(self) -> Any:
        """The ParamState with scale and bias; None if there is nothing to learn."""

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""


def norm_options(layer: Any, mask: Any = None) -> NormOptions:
    """Return the shared options of a layer as those of a functional norm."""
    options: NormOptions = {"mask": mask}
    for key in OPTIONS:
        options[key] = getattr(layer, key)  # type: ignore[literal-required]
    return options
