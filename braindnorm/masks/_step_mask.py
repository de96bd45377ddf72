"""The step mask: which trials are alive in this time step, for every norm layer inside a ``with`` block.

Compiled functions are why this is more than a variable. What is read while a function is traced becomes a constant of
it, but brainstate makes the States that a function reads its arguments. So a mask from outside of any trace is lent to
a State, and a function compiled under one mask follows the next; a mask made within a trace is that trace's own value.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import brainstate
import jax
import numpy as np

from ..errors import MaskError
from ..units import shape_of
from ._align import align, as_booleans, broadcasts

__all__ = ["fit_leading", "step_mask", "with_step_mask"]

KEY = "braindnorm_step_mask"
OPEN_INSIDE = "Open the context inside the function: def f(x, alive): with step_mask(alive): return net(x)."


class _Opened:
    """One open context: its own mask (None where the State holds it), and whether anyone has read it."""

    def __init__(self, valid: jax.Array | None) -> None:
        self.valid = valid
        self.read = False


class _Lent(brainstate.ShortTermState):
    """The mask of the contexts that were opened outside of any trace. Compiled functions take it as an argument."""

    @property
    def value(self) -> Any:
        """The mask; while no such context is open, everything is valid."""
        opened = brainstate.environ.get(KEY, None)
        if opened is not None:
            if opened.valid is not None:
                raise MaskError(
                    "step_mask: a function that was compiled under another step mask is called under a mask that was"
                    f" opened within a trace, and cannot see it. {OPEN_INSIDE}"
                )
            opened.read = True
        return brainstate.ShortTermState.value.fget(self)  # type: ignore[attr-defined]

    @value.setter
    def value(self, mask: Any) -> None:
        brainstate.ShortTermState.value.fset(self, mask)  # type: ignore[attr-defined]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.lent = _Lent(np.ones((), bool))


_THREAD = _Thread()


@contextmanager
def step_mask(mask: Any) -> Iterator[None]:
    """Give every norm layer inside the ``with`` block the mask of this time step.

    Parameters
    ----------
    mask : array_like of bool or int, BinaryArray or None
        True or non-zero where the step is valid, aligned with the *leading* (batch) axes of a layer's input: of shape
        (batch,), or () for one trial and under ``vmap``, or (time, batch) for layers that see a whole sequence. None
        masks nothing.

    Raises
    ------
    MaskError
        In a layer, with its name, if the mask has more axes than the input has batch axes or does not fit them. On
        leaving the block, if no norm layer has read the mask: there is none, or it was compiled before without one.
        In a function compiled by ``jax.jit`` that the block is outside of.

    Notes
    -----
    A layer's explicit ``mask=`` and the masks of nested blocks are combined by logical and; where their axes differ in
    number they too are aligned from the left. Masked outputs are the layer's ``masked_output``, and statistics that run
    over the batch leave the masked trials out. The functions of :mod:`braindnorm.functional` are pure and do not look.

    A block around ``for_loop``, ``vmap``, ``grad`` or ``jit`` of ``brainstate.transform`` is followed also by what they
    have compiled. Where a mask depends on the step, open the block in the loop's body.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> from braindnorm import LayerNorm, masks, step_mask
    >>> net = brainstate.nn.Sequential(LayerNorm(2), lambda x: 10 * x)
    >>> def step(x, alive):
    ...     with step_mask(alive):
    ...         return net(x)
    >>> alive = masks.from_lengths([1, 2], 2)
    >>> xs = jnp.ones((2, 2, 1)) * jnp.array([-1., 1.])
    >>> brainstate.transform.for_loop(step, xs, alive)[1].round(3)
    Array([[  0.,   0.],
           [-10.,  10.]], dtype=float32)
    """
    if mask is None:
        yield
        return
    valid = as_booleans(mask, "step_mask")
    outer = _current("step_mask")
    if outer is not None:
        valid = _meet(outer, valid)
    traced = isinstance(valid, jax.core.Tracer)
    opened = _Opened(valid if traced else None)
    with _lending(None if traced else valid), brainstate.environ.context(braindnorm_step_mask=opened):
        yield
    if not opened.read:
        raise MaskError(
            f"step_mask: no norm layer has read this mask of shape {valid.shape}. Either there is none inside (then"
            " write step_mask(None)), or it is in a function that was compiled before without a mask. " + OPEN_INSIDE
        )


def with_step_mask(mask: Any, x: Any, in_size: Any, *, name: str) -> Any:
    """Return a layer's explicit mask, and the step mask if one is open.

    Parameters
    ----------
    mask : array_like or None
        The explicit one, broadcast to `x` from the right.
    x : array_like or Quantity
        The layer's input, whose axes before those of `in_size` are its batch axes.
    in_size : sequence of int
        The size of the input without its batch axes.
    name : str
        What errors call the layer.
    """
    step = _current(name)
    if step is None:
        return mask
    shape = shape_of(x, name=name)
    step = fit_leading(step, shape, in_size, what="step mask", name=name)
    explicit = align(mask, shape, name=name)
    return step if explicit is None else step & explicit


def fit_leading(valid: jax.Array, shape: Sequence[int], in_size: Any, *, what: str, name: str) -> jax.Array:
    """Return booleans of trials, aligned with the leading axes, with as many axes as the input.

    Raises
    ------
    MaskError
        If they have more axes than the input has batch axes, or do not fit them.
    """
    batch = tuple(shape[: max(len(shape) - len(in_size), 0)])
    if valid.ndim > len(batch) or not broadcasts(valid.shape, batch):
        raise MaskError(
            f"{name}: the {what} of shape {valid.shape} does not fit the leading axes of an input of shape"
            f" {tuple(shape)}, of which {batch} are batch axes (in_size={tuple(in_size)}). It has one entry for each"
            " trial: give it those axes."
        )
    return valid.reshape(*valid.shape, *[1] * (len(shape) - valid.ndim))


def _current(name: str) -> jax.Array | None:
    """Return the mask of the innermost open context, None outside of any."""
    opened = brainstate.environ.get(KEY, None)
    if opened is None:
        return None
    opened.read = True
    if opened.valid is not None:
        traced: jax.Array = opened.valid
        return traced
    valid: jax.Array = _THREAD.lent.value
    if isinstance(valid != 0, jax.core.Tracer) and not isinstance(valid, jax.core.Tracer):
        raise MaskError(
            f"{name}: step_mask was opened outside of a function that jax compiles (jax.jit, jax.lax.scan), which would"
            f" keep this mask for good. {OPEN_INSIDE} Or compile with brainstate.transform, which follows the mask."
        )
    return valid


@contextmanager
def _lending(valid: jax.Array | None) -> Iterator[None]:
    """Put a mask into the State, and take it out again."""
    if valid is None:
        yield
        return
    lent = _THREAD.lent
    before = lent.value
    lent.value = valid
    try:
        yield
    finally:
        # what was compiled keeps its shape, and without a context everything is valid
        lent.value = before if brainstate.environ.get(KEY, None) is not None else np.ones(valid.shape, bool)


def _meet(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """Combine two masks that are both aligned from the left."""
    ndim = max(outer.ndim, inner.ndim)
    a, b = (v.reshape(*v.shape, *[1] * (ndim - v.ndim)) for v in (outer, inner))
    try:
        return a & b
    except (TypeError, ValueError) as error:
        raise MaskError(
            f"step_mask: a mask of shape {inner.shape} inside one of shape {outer.shape}, which does not fit it. Nested"
            " masks are combined, aligned from the left."
        ) from error
