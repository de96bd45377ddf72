"""Warnings that point at the line of whoever uses a layer."""

import inspect
import warnings

from ..errors import NormWarning

_BETWEEN = ("braindnorm", "brainstate", "jax")


def warn_user(message: str) -> None:
    """Give a :class:`NormWarning` at the first line outside of these packages, whatever calls lie between."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, NormWarning, stacklevel=level)
