"""Fold every norm of a model that folds."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import brainstate
from brainstate.nn import Module, Sequential

from ..errors import ConversionError, NormError, OptionError, named
from ..layers._module import NormModule
from ._fold_neuron import is_lif
from ._fold_synapses import SYNAPSES
from ._line import line_of
from ._packages import check_model
from ._replace import Left, at, is_norm
from ._swap import Path, swap
from .fold import fold_norm

__all__ = ["Fold", "Folded", "fold_norms"]


class Fold(NamedTuple):
    """A norm that was folded: where it was, the norm, and the layer that does its work now."""

    path: Path
    norm: Module
    layer: Module


class Folded(list[Fold]):
    """What :func:`fold_norms` did: a list of (path, norm, layer), and in `left` the norms that are still there.

    Attributes
    ----------
    left : list of (path, module, reason)
        Every other module that is a norm, or is named after one.
    """

    def __init__(self, folds: Iterable[Fold], left: list[Left]) -> None:
        super().__init__(folds)
        self.left = left

    def __str__(self) -> str:
        rows = [f"folded {at(path)}: {type(norm).__name__} into {type(layer).__name__}" for path, norm, layer in self]
        rows += [f"left {at(path)}: {_about(module, reason)}" for path, module, reason in self.left]
        return "\n".join(rows)


def _about(module: Module, reason: str) -> str:
    kind = type(module).__name__
    return reason if reason.startswith(f"{kind} ") else f"{kind}, {reason}"


@named("fold_norms")
def fold_norms(model: Module) -> Folded:
    """Fold every norm of a model into the layer before it, or else the one after it, in place.

    Parameters
    ----------
    model : Module
        The trained model. A norm folds where it stands in a ``Sequential``, at any depth, beside a layer that
        :func:`fold_norm` takes. It is taken out of the ``Sequential``, and a new layer takes the place of the other.

    Returns
    -------
    Folded
        A list of (path, norm, layer): every norm that was folded, where it was when the call began, and the layer that
        does its work now. Its attribute `left` lists (path, module, reason) of the norms that are still there.
        ``print`` it to read both.

    Raises
    ------
    OptionError
        If the model is itself a norm, or a model of torch or another package.

    Notes
    -----
    The model is for evaluation afterwards: its norms no longer learn. A norm or a layer that stands in several places
    is left, since it would have to do two things at once. A norm in an attribute of a module of your own is left too:
    only its ``update`` knows what stands beside it. Fold it by hand with :func:`fold_norm`.

    See Also
    --------
    braindnorm.interop.to_nir : the folded model for a chip.

    Examples
    --------
    >>> import brainstate
    >>> from braindnorm import BatchNorm, LayerNorm
    >>> from braindnorm.interop import fold_norms
    >>> net = brainstate.nn.Sequential(
    ...     brainstate.nn.Linear(2, 4), BatchNorm(4), brainstate.nn.Linear(4, 3), LayerNorm(3))
    >>> print(fold_norms(net).left[0].reason)  # doctest: +ELLIPSIS
    LayerNorm takes its statistics from each input, ...
    >>> [type(layer).__name__ for layer in net.layers]
    ['Linear', 'Linear', 'LayerNorm']
    """
    check_model(model, brainstate.graph.nodes(model).values())
    if _is_norm(model):
        raise OptionError(
            f"the model is itself a {type(model).__name__}, which has nothing beside it. Write fold_norm(layer, norm)."
        )
    nodes = {path: node for path, node in brainstate.graph.nodes(model).items() if isinstance(node, Module)}
    norms = {id(node): (path, node) for path, node in nodes.items() if _is_norm(node)}
    for path, node in nodes.items():  # what an OverTime wraps is a part of it
        if any(path[: len(outer)] == outer != path for outer, _ in norms.values()):
            norms.pop(id(node), None)
    places = [id(old) for _, old, _ in swap(model, {id(m): m for m in nodes.values() if _is_norm(m) or _takes(m)})]
    shared = {module for module, count in Counter(places).items() if count > 1}
    reasons: dict[int, str] = {}
    folds: list[Fold] = []
    for sequence in nodes.values():
        if type(sequence) is Sequential:
            folded = _fold_sequence(sequence.layers, shared, reasons)
            folds += [Fold(norms.pop(id(norm))[0], norm, layer) for norm, layer in folded]
    alone = "stands beside no layer of a Sequential that takes a norm: fold it by hand, with fold_norm(layer, norm)"
    left = [Left(path, norm, reasons.get(id(norm), alone)) for path, norm in norms.values()]
    folds.sort(key=lambda fold: places.index(id(fold.norm)))
    left.sort(key=lambda one: places.index(id(one.module)))
    return Folded(folds, left)


def _is_norm(module: object) -> bool:
    return isinstance(module, NormModule) or is_norm(module)


def _fold_sequence(layers: list[Any], shared: set[int], reasons: dict[int, str]) -> list[tuple[Module, Module]]:
    """Fold the norms of one Sequential: each, and its layer now. Keep the reason of each that stays."""
    folds: list[tuple[Module, Module]] = []
    for norm in [layer for layer in layers if isinstance(layer, Module) and _is_norm(layer)]:
        index = next(index for index, layer in enumerate(layers) if layer is norm)
        try:
            old, new = _fold_one(layers, index, shared)
        except NormError as error:
            reasons[id(norm)] = str(error.args[0])
            continue
        if new is not None:
            layers[:] = [new if layer is old else layer for layer in layers if layer is not norm]
            folds = [(folded, new if layer is old else layer) for folded, layer in folds] + [(norm, new)]
    return folds


def _fold_one(layers: list[Any], index: int, shared: set[int]) -> tuple[Any, Module | None]:
    """Return the layer beside a norm that takes it, and what takes its place; None for the second where none does.

    Raises
    ------
    NormError
        As that layer, or the norm itself, refuses.
    """
    norm = layers[index]
    line_of(norm)
    before, after = layers[index - 1] if index else None, layers[index + 1] if index + 1 < len(layers) else None
    pairs = [(before, (before, norm))] * (type(before) in SYNAPSES) + [(after, (norm, after))] * _takes(after)
    for number, (beside, pair) in enumerate(pairs, start=1):
        if id(norm) in shared or id(beside) in shared:
            raise ConversionError(
                "the norm or the layer beside it stands in several places, and cannot change for one of them"
            )
        try:
            return beside, fold_norm(*pair)
        except NormError:
            if number == len(pairs):
                raise
    return None, None


def _takes(layer: object) -> bool:
    return type(layer) in SYNAPSES or is_lif(layer)
