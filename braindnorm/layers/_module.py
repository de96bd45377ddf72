"""What Python needs to know of a layer, whatever the layer computes."""

import functools
import inspect
from typing import TYPE_CHECKING

import brainstate

from ..errors import NormError
from ..units import Shape
from ._watch import Method, watched
from ._wiring import label


class Signature:
    """The signature of a class, from its constructor; of a layer, from its ``update``.

    The metaclass of brainstate and ``Module.__call__`` take ``(*args, **kwargs)``, which :func:`inspect.signature`
    and :func:`help` would show.
    """

    def __get__(self, layer: "NormModule | None", owner: type) -> inspect.Signature:
        if layer is not None:
            return inspect.signature(layer.update)
        constructor = inspect.signature(owner.__init__)  # type: ignore[misc]  # of this very class, not of a subclass
        return constructor.replace(parameters=[*constructor.parameters.values()][1:])


class NormModule(brainstate.nn.Module):
    """A layer that can be watched, shows its signature, and is called by ``numpy_array >> layer``.

    There is nothing here of what a norm computes.
    """

    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element
    __signature__ = Signature()
    if TYPE_CHECKING:  # brainstate takes other spellings of a size, and returns a tuple
        in_size: Shape  # type: ignore[override]
        out_size: Shape  # type: ignore[override]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("__init__", "init_state", "reset_state", "end_sequence", "update", "update_sequence"):
            method = vars(cls).get(name)
            if inspect.isfunction(method):
                setattr(cls, name, _named(watched(method) if name in ("update", "update_sequence") else method))


def _named(method: Method) -> Method:
    """Return a method whose errors say which layer was called."""

    @functools.wraps(method)
    def call(self: NormModule, *args: object, **kwargs: object) -> object:
        try:
            return method(self, *args, **kwargs)
        except NormError as error:
            error.caller = label(self)
            raise

    return call
