"""Shapes of arrays in annotations: prose to Python and to mypy, and checked in the tests by jaxtyping.

``Float[jax.Array, "*shape"]`` is an array of floats whose axes are called `shape`, the same in all annotations of a
function; ``"*#shape"`` is one that broadcasts to it. A package that is not there cannot be asked for: so the names are
those of jaxtyping only if it was imported before, as ``make test-shapes`` does, and else `typing.Annotated`.
"""

import sys
from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING or "jaxtyping" not in sys.modules:
    from typing import Annotated as Bool
    from typing import Annotated as Float
else:
    from jaxtyping import Bool, Float

__all__ = ["Bool", "Centre", "Float", "Mask", "Parameter", "Statistic", "Values"]

# of an input and of a result
Values = Float[jax.Array, "*shape"]
# as many axes as the input, each as long or 1
Mask = Bool[jax.Array, "*#shape"] | None
# one number a group, with the reduced axes kept
Statistic = Float[jax.Array, "*#shape"]
# the parts of a mean
Centre = tuple[Statistic, ...]
# scale or bias: broadcast from the right
Parameter = Float[jax.Array, "..."] | None
