"""Look at the norms of a model: for a while as it runs, or at one input."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import brainstate

from ..errors import OptionError
from ..interop._swap import swap
from ..layers import OverTime
from ._findings import tell
from ._recorded import KINDS, Recorded


@contextmanager
def record(model: Any, num_steps: int, *, warn: bool = True) -> Iterator[dict[str, Recorded]]:
    """Record every norm of a model while the ``with`` block runs, and leave the model as it was.

    Parameters
    ----------
    model : Module
        A model that holds LayerNorm, RMSNorm or GroupNorm of ours, at any depth. A norm inside of ``OverTime`` is not
        recorded: its statistics are another's.
    num_steps : int
        How many calls of each to keep.
    warn : bool
        On leaving the block, warn (:class:`NormWarning`) of what is nearly always a mistake.

    Yields
    ------
    dict of str to Recorded
        By the path of each norm, such as ``'layers.1'``. Read them after the block.

    Raises
    ------
    OptionError
        If there is no norm in the model, or the model is itself one (write ``Recorded(norm, num_steps)``).

    Notes
    -----
    Each norm is replaced by a :class:`Recorded` one for the while. So compile inside the block: a function that was
    compiled before does not record, and one that was compiled inside should not be used after it.

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
    nodes = brainstate.graph.nodes(model).values()
    inner = {id(node.norm) for node in nodes if isinstance(node, OverTime | Recorded)}
    norms = [node for node in nodes if type(node) in KINDS and id(node) not in inner]
    if not norms or norms == [model]:
        raise OptionError(
            f"record: no LayerNorm, RMSNorm or GroupNorm of braindnorm is inside of this {type(model).__name__}. For a"
            " norm by itself write Recorded(norm, num_steps); for those of brainstate.nn, first replace_norms(model)."
        )
    recorded = {id(norm): Recorded(norm, num_steps) for norm in norms}
    swaps = swap(model, recorded)
    try:
        yield {".".join(map(str, path)): new for path, _, new in swaps}
    finally:
        swap(model, {id(new): new.norm for new in recorded.values()})
    tell([sentence for new in recorded.values() for sentence in new.check(warn=False)], warn, stacklevel=4)


def check(norm: Any, x: Any, *, mask: Any = None, warn: bool = True) -> list[str]:
    """Look at one input of a norm for what is nearly always a mistake.

    Three things are: an epsilon that is larger than the variance of most groups (the unit is then wrong), statistics
    over binary spikes alone, and groups of one element.

    Parameters
    ----------
    norm : LayerNorm, RMSNorm or GroupNorm
        The norm.
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
