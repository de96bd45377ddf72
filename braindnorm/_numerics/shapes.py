"""Shapes in annotations, ``Shaped[jax.Array, "*s"]``: for readers, and for the tests, which import jaxtyping first."""

import sys
from typing import TYPE_CHECKING

__all__ = ["Shaped"]

if TYPE_CHECKING:
    from typing import Annotated as Shaped
elif "jaxtyping" in sys.modules:
    from jaxtyping import Shaped
else:

    class Shaped:
        """The type without its shape."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            """Return the type."""
            return item[0]
