"""Put other modules in the places of some, anywhere in a model."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import brainstate

from .._numerics.axes import as_int

# the attributes, indices and keys on the way to a module
Holder = list[object] | dict[Hashable, object] | brainstate.graph.Node
Path = tuple[Hashable, ...]


class Swap(NamedTuple):
    """One place of a model: where it is, what stood there, and what stands there now."""

    path: Path
    old: brainstate.nn.Module
    new: brainstate.nn.Module


def swap(model: brainstate.nn.Module, new: Mapping[int, brainstate.nn.Module]) -> list[Swap]:
    """Replace modules in attributes, lists, tuples and dictionaries of a model, in place.

    Parameters
    ----------
    model : Module
        What holds them, at any depth.
    new : dict
        What takes the place of a module, by the module's ``id``. A module that stands in several places is replaced by
        one and the same.

    Returns
    -------
    list of Swap
        Every place where something was replaced.
    """
    swaps: list[Swap] = []
    seen: set[int] = set()

    def visit(value: object, path: Path) -> object:
        if isinstance(value, brainstate.nn.Module) and id(value) in new:
            swaps.append(Swap(path, value, new[id(value)]))
            return new[id(value)]
        if isinstance(value, tuple):
            items = [visit(item, (*path, key)) for key, item in enumerate(value)]
            changed = any(item is not old for item, old in zip(items, value, strict=True))
            return _like(value, items) if changed else value
        if isinstance(value, _CONTAINERS) and id(value) not in seen:
            seen.add(id(value))
            for key, old in list(_items(value)):
                item = visit(old, (*path, key))
                if item is not old:
                    _put(value, key, item)
        return value

    visit(model, ())
    return swaps


_CONTAINERS = (brainstate.graph.Node, list, dict)


def _items(container: Holder) -> Iterable[tuple[Hashable, object]]:
    if isinstance(container, list):
        return enumerate(container)
    return (container if isinstance(container, dict) else vars(container)).items()


def _put(container: Holder, key: Hashable, item: object) -> None:
    if isinstance(container, dict):
        container[key] = item
    elif isinstance(container, list):
        container[as_int(key)] = item
    else:
        setattr(container, str(key), item)


def _like(old: tuple[object, ...], items: list[object]) -> object:
    make: Callable[..., object] = type(old)  # a named tuple takes its items one by one
    return make(*items) if hasattr(old, "_fields") else tuple(items)
