"""What to write, where a call has an argument that the norm does not take."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

from ..errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")

# what other packages call an argument
ELSEWHERE = {
    "eps": "epsilon",
    "axis": "reduction_axes",
    "axes": "reduction_axes",
    "normalized_shape": "in_size",
    "num_channels": "in_size",
    "num_features": "in_size",
    "gamma": "scale",
    "beta": "bias",
    "weight": "scale",
    "affine": "use_scale",
    "elementwise_affine": "use_scale",
    "bias": "use_bias",
}


def says_what_to_write(options: Collection[str] = (), hint: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the errors of a call that does not fit a signature say what to write in its place.

    Parameters
    ----------
    options : collection of str
        What the function takes as ``**options``.
    hint : str
        What is most often meant by too many arguments without a name.

    Raises
    ------
    ArgumentError
        Instead of Python's TypeError.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError:
                _check(function.__qualname__, signature, options, hint, args, kwargs)
                raise

        return call

    return decorate


def _check(
    name: str, signature: inspect.Signature, options: Collection[str], hint: str, args: Any, kwargs: dict[str, Any]
) -> None:
    """Raise if it is the call that does not fit; any other error is left to whom it belongs."""
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    method = by_position[:1] == ["self"]
    what = type(args[0]).__name__ if method and name.endswith("__init__") else name
    taken = [p.name for p in parameters if p.name != "self"] + sorted(options)
    for key in kwargs:
        if key not in taken:
            meant = [ELSEWHERE[key]] if ELSEWHERE.get(key) in taken else difflib.get_close_matches(key, taken, 1, 0.75)
            cure = f"Write {meant[0]}=..." if meant else f"It takes {', '.join(taken)}"
            raise ArgumentError(f"{what}: there is no argument {key!r}. {cure}.") from None
    if len(args) > len(by_position):
        named = ", ".join(by_position[method:])
        raise ArgumentError(
            f"{what}: only {named} may be given without a name; got {len(args) - method} such arguments."
            f" {hint or 'Write the others by name'}."
        ) from None
