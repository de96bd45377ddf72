"""What is told to whoever hands over a module of another package, where one of brainstate or of ours is asked for."""

from collections.abc import Iterable

from brainstate import nn

from ..errors import OptionError
from ._common import Foreign, refuse

_CONVERTERS = {
    name: f"braindnorm.interop.from_{name}"
    for name in ("brainpy", "brainstate", "equinox", "flax", "spikingjelly", "torch")
}


def check_model(model: Foreign, nodes: Iterable[object]) -> None:
    """Raise if a model is of another package: it has no modules of brainstate, which `nodes` would have.

    Raises
    ------
    OptionError
        With the converter for its norms.
    """
    if isinstance(model, nn.Module) or any(isinstance(node, nn.Module) for node in nodes):
        return
    for kind in type(model).__mro__:  # a user's own class derives from one of the package
        package = _package_of(kind)
        if package in _CONVERTERS and package != "brainstate":
            raise OptionError(
                f"the model is a {type(model).__name__} of {package}, and a model of brainstate is asked for. Build it"
                f" with brainstate.nn, and convert each norm of {package} with {_CONVERTERS[package]}(norm)."
            )


def check_ours(norm: Foreign) -> None:
    """Raise if a norm is one of another package that has a converter.

    Raises
    ------
    ConversionError
        With the converter.
    """
    package = _package_of(type(norm))
    if package in _CONVERTERS:
        remedy = f"Convert it first, with {_CONVERTERS[package]}(norm)"
        remedy += "; or all norms of the model, with replace_norms(model)." if package == "brainstate" else "."
        refuse(type(norm).__name__, f"is a norm of {package}, and only those of braindnorm fold", remedy)


def _package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]
