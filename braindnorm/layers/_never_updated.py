"""A warning for the usual mistake with running statistics: they are evaluated, and no call has updated them."""

from typing import Any


def trust(layer: Any) -> None:
    """Let the running statistics of a layer be taken as they are: somebody has put them there."""
