"""Look at the norms of a model: for a while as it runs, or at one input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

import brainstate

from ..errors import OptionError
from ..layers import OverTime
from ..layers._module import NormModule
from ..layers._watch import Call, Watcher, watching
from ..layers._wiring import label
from ..units import MaskLike, QuantityLike
from ._findings import tell
from ._recorded import Recorded
from ._totals import AnyNorm


@contextmanager
def record(
    model: brainstate.nn.Module, num_steps: SupportsIndex, *, warn: bool = True
) -> Iterator[dict[str, Recorded]]:
    """Record every norm of a model while the ``with`` block runs.

    The model stays as it is: its modules, states and their paths are the same inside the block as outside, so an
    optimizer and a gradient work in it.

    Parameters
    ----------
    model : Module
        A model that holds norms of ours or subclasses of them, at any depth, or one norm. Of an ``OverTime`` the calls
        of ``update`` and of ``update_sequence`` are recorded, each step as an entry.
    num_steps : int
        How many calls of each norm to keep.
    warn : bool
        On leaving the block, warn (:class:`NormWarning`) of what is nearly always a mistake, and of norms that no call
        came from.

    Yields
    ------
    dict of str to Recorded
        By the path of each norm, such as ``'layers.1'`` (``''`` if the model is itself the norm). A norm that stands in
        several places has one entry. The norm inside of an ``OverTime`` gets an entry when it is called by itself.

    Raises
    ------
    OptionError
        If there is no norm in the model.

    Notes
    -----
    Compile inside the block, with ``brainstate.transform``: ``jax.jit`` and ``jax.lax.scan`` carry no states, so a
    recorded norm cannot be called in them. A function that was compiled before does not record. One that was compiled
    inside may be used after it, at the cost of recording, and changes nothing of what was recorded.

    Examples
    --------
    >>> import brainstate, brainunit as u, jax.numpy as jnp
    >>> from braindnorm import LayerNorm, monitor
    >>> net = brainstate.nn.Sequential(LayerNorm(2, out_unit=u.UNITLESS), lambda z: 2 * z)
    >>> with monitor.record(net, num_steps=10) as records:
    ...     _ = brainstate.transform.for_loop(net, jnp.array([[-65., -63.], [-60., -56.]]) * u.mV)
    >>> print(records["layers.0"].read().mean)
    [-64. -58.] mV
    """
    nodes = brainstate.graph.nodes(model)
    recorded = {
        ".".join(map(str, path)): Recorded(node, num_steps)
        for path, node in nodes.items()
        if isinstance(node, NormModule) and isinstance(node, AnyNorm)
    }
    if not recorded:
        raise OptionError(
            f"record: no norm of braindnorm is inside of this {type(model).__name__}. For the norms of brainstate.nn,"
            " first replace_norms(model)."
        )
    wrapped = {id(node.norm) for node in nodes.values() if isinstance(node, OverTime)}
    records = {path: entry for path, entry in recorded.items() if id(entry.norm) not in wrapped}

    def watcher(path: str, entry: Recorded) -> Watcher:
        def keep(call: Call) -> None:
            records.setdefault(path, entry).keep(call)

        return keep

    try:
        with watching({entry.norm: watcher(path, entry) for path, entry in recorded.items()}):
            yield records
    finally:
        for entry in recorded.values():
            entry.close()
    tell([sentence for path, entry in records.items() for sentence in _told(path, entry)], warn, stacklevel=4)


def _told(path: str, entry: Recorded) -> list[str]:
    if entry.calls:
        return entry.check(warn=False)
    return [
        f"{label(entry.norm)} at {path!r}: no call was recorded. It was not called, or only by a function that was"
        " compiled before the block: compile inside of it."
    ]


def check(norm: AnyNorm, x: QuantityLike, *, mask: MaskLike | None = None, warn: bool = True) -> list[str]:
    """Look at one input of a norm for what is nearly always a mistake.

    Three things are: an epsilon that is larger than the variance of most groups (the unit is then wrong), statistics
    over binary spikes alone, and groups of one element.

    Parameters
    ----------
    norm : Module
        A norm of braindnorm.
    x, mask
        What it would be called with. Their values must be known: call it outside of ``jit``.
    warn : bool
        Give each sentence as a :class:`NormWarning` too.

    Returns
    -------
    list of str
        A sentence for each mistake.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm import LayerNorm
    >>> from braindnorm.monitor import check
    >>> volts = jnp.array([-0.0651, -0.0649])
    >>> check(LayerNorm(2), volts, warn=False)[0][:67]
    'LayerNorm(in_size=(2,)): epsilon=1e-06 is larger than the variance '
    """
    recorded = Recorded(norm, 1)
    recorded(x, mask=mask)
    return tell(recorded.check(warn=False), warn)
