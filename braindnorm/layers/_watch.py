"""How the calls of a layer are seen by whoever watches it, while the layer stays where it is in the model."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..units import MaskLike, QuantityLike, Result


class Call(NamedTuple):
    """One call of a layer: what came in, with its mask, and what went out."""

    x: QuantityLike
    y: Result
    mask: MaskLike | None
    whole_sequence: bool


Watcher = Callable[[Call], None]
Method = Callable[..., Any]  # of a layer, whatever it takes

# who watches which layer, by the layer's id
_WATCHERS: ContextVar[Mapping[int, tuple[Watcher, ...]]] = ContextVar("braindnorm_watchers")
_NOBODY: Mapping[int, tuple[Watcher, ...]] = {}


@contextmanager
def watching(watchers: Mapping[object, Watcher]) -> Iterator[None]:
    """Let each layer tell its watcher of every call inside the ``with`` block, from this thread."""
    now = dict(_WATCHERS.get(_NOBODY))
    for layer, watcher in watchers.items():
        now[id(layer)] = (*now.get(id(layer), ()), watcher)
    token = _WATCHERS.set(now)
    try:
        yield
    finally:
        _WATCHERS.reset(token)


def watched(method: Method) -> Method:
    """Return a layer's ``update`` (or ``update_sequence``) that tells the layer's watchers, if any, of the call."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: object, *args: object, **kwargs: object) -> object:
        watchers = _WATCHERS.get(_NOBODY)
        if not watchers or id(self) not in watchers:
            return method(self, *args, **kwargs)
        # what the layer calls of itself (super().update) is part of this call, not another one
        token = _WATCHERS.set({key: value for key, value in watchers.items() if key != id(self)})
        try:
            y = method(self, *args, **kwargs)
        finally:
            _WATCHERS.reset(token)
        arguments = signature.bind(self, *args, **kwargs).arguments
        x = [*arguments.values()][1]
        for watcher in watchers[id(self)]:
            watcher(Call(x, y, arguments.get("mask"), method.__name__ == "update_sequence"))
        return y

    return call
