"""Put other modules in the places of some, anywhere in a model."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import brainstate


class Swap(NamedTuple):
    """One place of a model: where it is, what stood there, and what stands there now."""

    path: tuple[Any, ...]
    old: Any
    new: Any


def swap(model: Any, new: Mapping[int, Any]) -> list[Swap]:
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

    def visit(value: Any, path: tuple[Any, ...]) -> Any:
        if id(value) in new:
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


def _items(container: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(container, list):
        return enumerate(container)
    return (container if isinstance(container, dict) else vars(container)).items()


def _put(container: Any, key: Any, item: Any) -> None:
    if isinstance(container, list | dict):
        container[key] = item
    else:
        setattr(container, key, item)


def _like(old: tuple[Any, ...], items: list[Any]) -> Any:
    return type(old)(*items) if hasattr(old, "_fields") else tuple(items)
