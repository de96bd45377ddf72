"""What to write, where a call has an argument that the norm does not take."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ParamSpec, TypeVar

from ..errors import ArgumentError, NormError

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
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = frozenset([*options, *(p.name for p in parameters)])

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not kwargs.keys() <= taken:
                _check(parameters, options, hint, args, kwargs)
            try:
                return function(*args, **kwargs)
            except TypeError:
                _check(parameters, options, hint, args, kwargs)
                raise

        return call

    return decorate


def norm_function(options: Collection[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function an entry to the package: its errors say what to write, and begin with its `name`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        checked = says_what_to_write({*options, "name"}, "A mask is given as mask=mask")(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            name = kwargs.pop("name", function.__name__)
            try:
                return checked(*args, **kwargs)
            except NormError as error:
                error.caller = str(name)
                raise

        return call

    return decorate


def _check(
    parameters: Sequence[inspect.Parameter],
    options: Collection[str],
    hint: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> None:
    """Raise if it is the call that does not fit; any other error is left to whom it belongs."""
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    method = by_position[:1] == ["self"]
    names = [p.name for p in parameters if p.name != "self"]
    taken = names + sorted({*options} - {*names})
    for key in kwargs:
        if key not in taken:
            meant = [ELSEWHERE[key]] if ELSEWHERE.get(key) in taken else difflib.get_close_matches(key, taken, 1, 0.75)
            cure = f"Write {meant[0]}=..." if meant else f"It takes {', '.join(taken)}"
            raise ArgumentError(f"there is no argument {key!r}. {cure}.") from None
    if len(args) > len(by_position):
        named = ", ".join(by_position[method:])
        raise ArgumentError(
            f"only {named} may be given without a name; got {len(args) - method} such arguments."
            f" {hint or 'Write the others by name'}."
        ) from None
