"""Replace the norms of brainstate.nn in a whole model by ours."""

import re
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import brainstate

from ..errors import OptionError, named
from ..layers._module import NormModule
from ._packages import check_model
from ._swap import Path, Swap, swap
from .brainstate import KINDS_THERE, from_brainstate

__all__ = ["Left", "Replaced", "replace_norms"]

_STATES = ("weight", "scale", "running_mean", "running_var")
# LayerNorm, BatchNorm2d, InstanceNormalization; not NormalReg
_NAME = re.compile(r"norm(alization)?(layer)?(\dd)?$", re.IGNORECASE)


class Left(NamedTuple):
    """A norm that was left as it was: where it is, the module, and why."""

    path: Path
    module: brainstate.nn.Module
    reason: str


class Replaced(list[Swap]):
    """What :func:`replace_norms` did: a list of (path, old, new), and in `left` the norms that it left alone.

    Attributes
    ----------
    left : list of (path, module, reason)
        Every other module that is named after a norm and is not one of ours.
    """

    def __init__(self, swaps: Iterable[Swap], left: list[Left]) -> None:
        super().__init__(swaps)
        self.left = left

    def __str__(self) -> str:
        rows = [f"replaced {at(path)}: {type(old).__name__}" for path, old, _ in self]
        rows += [f"left {at(path)}: {type(module).__name__}, {reason}" for path, module, reason in self.left]
        return "\n".join(rows)


@named("replace_norms")
def replace_norms(model: brainstate.nn.Module, **options: Any) -> Replaced:
    """Replace every norm of ``brainstate.nn`` in a model by ours, in place.

    Parameters
    ----------
    model : Module
        The model. Norms are found in attributes, lists, tuples, dictionaries and ``Sequential``, at any depth;
        subclasses of brainstate's norms are left alone.
    **options
        Options of our layers, for all of them: `unit`, `out_unit`, `masked_output`, `use_fast_variance` and so on.
        Without a `masked_output`, masked positions come out as they did (``'normalize'``).

    Returns
    -------
    Replaced
        A list of (path, old, new): every place where a norm was replaced, the path there as ``model.nodes()`` writes
        it, and the two norms. Its attribute `left` lists (path, module, reason) of the norms that were left alone.
        ``print`` it to read both.

    Raises
    ------
    OptionError
        If the model is itself a norm, which has no place to be replaced in, or is a model of torch or another package.
    NormError
        As our layers raise them, for a wrong option; the model is then as it was.

    Warns
    -----
    UserWarning
        If nothing was replaced, and the model holds no norm of ours either.

    Notes
    -----
    LayerNorm, RMSNorm, GroupNorm, BatchNorm0d, BatchNorm1d, BatchNorm2d and BatchNorm3d are replaced. The weights and
    running statistics are kept, with their paths: checkpoints of the model still load. What was shared (a norm that
    stands in two places, two norms with one state) is still shared. The states are new, so replace first, and then hand
    the model to an optimizer.

    Examples
    --------
    >>> import brainstate
    >>> from braindnorm import replace_norms
    >>> class RowNorm(brainstate.nn.Module):
    ...     pass
    >>> net = brainstate.nn.Sequential(brainstate.nn.LayerNorm(4), brainstate.nn.BatchNorm0d(4), RowNorm())
    >>> print(replace_norms(net))
    replaced layers.0: LayerNorm
    replaced layers.1: BatchNorm0d
    left layers.2: RowNorm, which has no counterpart in braindnorm
    """
    originals = [getattr(brainstate.nn, kind) for kind in KINDS_THERE]
    if type(model) in originals:
        raise OptionError(
            f"the model is itself a brainstate.nn.{type(model).__name__}, which has no place to be"
            " replaced in. Write braindnorm.interop.from_brainstate(model)."
        )
    new: dict[int, brainstate.nn.Module] = {}
    states: dict[int, Any] = {}
    nodes = brainstate.graph.nodes(model)
    check_model(model, nodes.values())
    for module in nodes.values():
        if type(module) in originals:
            layer = new[id(module)] = from_brainstate(module, **options)
            for key in _STATES:
                if getattr(module, key, None) is not None and hasattr(layer, key):
                    setattr(layer, key, states.setdefault(id(getattr(module, key)), getattr(layer, key)))
    others = [(path, module) for path, module in nodes.items() if id(module) not in new and is_norm(module)]
    left = [Left(path, module, _reason(module)) for path, module in others if not isinstance(module, NormModule)]
    report = Replaced(swap(model, new), left)
    if not new and len(left) == len(others):
        told = f": it left alone\n{report}" if left else ": there is none inside."
        warnings.warn(
            "replace_norms found no LayerNorm, RMSNorm, GroupNorm or BatchNorm of brainstate.nn in this"
            f" {type(model).__name__}{told}",
            stacklevel=3,
        )
    return report


def is_norm(module: object) -> bool:
    """Tell whether a module, or a class that it derives from, is named after a norm."""
    return any(_NAME.search(kind.__name__) for kind in type(module).__mro__)


def _reason(module: object) -> str:
    for kind in KINDS_THERE:
        if isinstance(module, getattr(brainstate.nn, kind)):
            return f"a subclass of brainstate.nn.{kind}, which may compute something else: convert its parts"
    return "which has no counterpart in braindnorm"


def at(path: Path) -> str:
    """Return a place as a report shows it."""
    return ".".join(map(str, path)) or "the model itself"
