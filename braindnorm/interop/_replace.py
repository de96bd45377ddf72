"""Replace the norms of brainstate.nn in a whole model by ours."""

from typing import Any

import brainstate

from ..errors import OptionError
from ._common import KINDS, state_of
from ._swap import Swap, swap
from .brainstate import from_brainstate

__all__ = ["replace_norms"]


def replace_norms(model: Any, **options: Any) -> list[Swap]:
    """Replace every LayerNorm, RMSNorm and GroupNorm of ``brainstate.nn`` in a model by ours, in place.

    Parameters
    ----------
    model : Module
        The model. Norms are found in attributes, lists, tuples, dictionaries and ``Sequential``, at any depth;
        subclasses of brainstate's norms are left alone.
    **options
        Options of our layers, for all of them: `unit`, `out_unit`, `masked_output`, `use_fast_variance` and so on.

    Returns
    -------
    list of (path, old, new)
        Every place where a norm was replaced: the path there, as ``model.nodes()`` writes it, and the two norms. The
        list is empty if there was none.

    Raises
    ------
    OptionError
        If the model is itself a norm, which has no place to be replaced in.
    NormError
        As our layers raise them, for a wrong option; the model is then as it was.

    Notes
    -----
    The weights are kept, with their paths: checkpoints of the model still load. What was shared (a norm that stands in
    two places, two norms with one state) is still shared. The states are new, so replace first, and then hand the
    model to an optimizer. With masks, brainstate gives what ``masked_output='normalize'`` gives here.

    Examples
    --------
    >>> import brainstate
    >>> from braindnorm import replace_norms
    >>> net = brainstate.nn.Sequential(brainstate.nn.Linear(2, 4), brainstate.nn.LayerNorm(4))
    >>> for path, old, new in replace_norms(net):
    ...     print(path, type(new).__name__, new.in_size)
    ('layers', 1) LayerNorm (4,)
    """
    theirs = [getattr(brainstate.nn, kind) for kind in KINDS]
    if type(model) in theirs:
        raise OptionError(
            f"replace_norms: the model is itself a brainstate.nn.{type(model).__name__}, which has no place to be"
            " replaced in. Write braindnorm.interop.from_brainstate(model)."
        )
    new: dict[int, Any] = {}
    states: dict[int, Any] = {}
    for module in brainstate.graph.nodes(model).values():
        if type(module) in theirs:
            layer = new[id(module)] = from_brainstate(module, **options)
            attribute = "scale" if type(module) is brainstate.nn.RMSNorm else "weight"
            setattr(layer, attribute, states.setdefault(id(state_of(module)), state_of(layer)))
    return swap(model, new)
