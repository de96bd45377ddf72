"""The types of what goes into a norm and comes out of it, each named once."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.typing
import numpy as np

# by name: as attributes of brainunit a user's strict type checker would not know them
from brainunit import Quantity, Unit

__all__ = [
    "Dtype",
    "DtypeLike",
    "Events",
    "HostResult",
    "Initializer",
    "Mantissa",
    "MaskLike",
    "QuantityLike",
    "Result",
    "Shape",
    "Unit",
]

Shape = tuple[int, ...]
# of the arrays inside the package
Dtype = np.dtype[Any]
# what a user may give as a dtype
DtypeLike = jax.typing.DTypeLike
# the numbers of a quantity
Mantissa = jax.typing.ArrayLike
# the result of a norm: a quantity where the output has a unit
Result = jax.Array | Quantity
# the same on the host
HostResult = np.ndarray[Any, Dtype] | Quantity


class SupportsArray(Protocol):
    """Anything that numpy reads as an array: a tensor or a column of another package."""

    def __array__(self) -> np.ndarray[Any, Dtype]:
        """Return the array."""


class Events(Protocol):
    """What wraps an array: events, as ``brainevent.BinaryArray`` does, or a State."""

    @property
    def value(self) -> Any:
        """The array."""


_Wrapped = list[Any] | tuple[Any, ...] | Events | SupportsArray
# numbers with or without a unit: an input, a parameter, an epsilon
QuantityLike = Mantissa | Quantity | _Wrapped
# booleans or integers: a mask, a reset
MaskLike = jax.Array | np.ndarray[Any, Dtype] | np.bool_ | np.integer[Any] | bool | int | _Wrapped
# what a parameter is made from
Initializer = Callable[..., Any] | QuantityLike
