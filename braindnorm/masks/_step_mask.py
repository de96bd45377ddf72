"""The step mask: which trials are alive in this time step, for every norm layer inside a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from ..errors import MaskError, named
from ..units import MaskLike, QuantityLike, shape_of
from ._align import align, as_booleans, broadcasts
from ._blocks import MASK, OPEN_INSIDE, Block, innermost, staged

__all__ = ["fit_leading", "step_mask", "with_step_mask"]


@contextmanager
def step_mask(mask: MaskLike | None) -> Iterator[None]:
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
        leaving the block, if no norm layer has read the mask. In a function compiled by ``jax.jit`` that the block is
        outside of. In a task or thread that runs while another's block is open.

    Notes
    -----
    A layer's explicit ``mask=`` and the masks of nested blocks are combined by logical and; where their axes differ in
    number they too are aligned from the left. Masked outputs are the layer's ``masked_output``, and statistics that run
    over the batch leave the masked trials out. The functions of :mod:`braindnorm.functional` are pure and do not look.

    Open the block inside the function that you compile, and pass it the mask; where a mask depends on the step, in the
    loop's body. A block around functions of ``brainstate.transform`` works as well: each call uses the mask that is
    active at that call. What ``jax`` compiles would keep it, and is refused.

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
    with named("step_mask"):
        valid = as_booleans(mask)
        outer = _current()
        block = Block(valid if outer is None else _meet(outer, valid))
    block.enter()
    try:
        yield
    finally:
        in_order = block.leave()
    with named("step_mask"):
        _check_left(block, in_order)


def _check_left(block: Block, in_order: bool) -> None:
    """Raise if a block was not left as the innermost one, or nobody has read its mask."""
    if not in_order:
        raise MaskError(
            "this block was left while another one, opened later or in another thread, was open. Leave the"
            " innermost block first: generators that hold one must not be mixed."
        )
    if not block.read:
        raise MaskError(
            f"no norm layer has read this mask of shape {block.valid.shape}. Either there is none inside"
            " (then write step_mask(None)), or it is in a program that was compiled ahead of time. " + OPEN_INSIDE
        )


def with_step_mask(mask: MaskLike | None, x: QuantityLike, in_size: Sequence[int]) -> MaskLike | None:
    """Return a layer's explicit mask, and the step mask if one is open.

    Parameters
    ----------
    mask : array_like or None
        The explicit one, broadcast to `x` from the right.
    x : array_like or Quantity
        The layer's input, whose axes before those of `in_size` are its batch axes.
    in_size : sequence of int
        The size of the input without its batch axes.
    """
    step = _current()
    if step is None:
        return mask
    shape = shape_of(x)
    step = fit_leading(step, shape, in_size, what="step mask")
    explicit = align(mask, shape)
    return step if explicit is None else step & explicit


def fit_leading(valid: jax.Array, shape: Sequence[int], in_size: Sequence[int], *, what: str) -> jax.Array:
    """Return booleans of trials, aligned with the leading axes, with as many axes as the input.

    Raises
    ------
    MaskError
        If they have more axes than the input has batch axes, or do not fit them.
    """
    batch = tuple(shape[: max(len(shape) - len(in_size), 0)])
    if valid.ndim > len(batch) or not broadcasts(valid.shape, batch):
        raise MaskError(
            f"the {what} of shape {valid.shape} does not fit the leading axes of an input of shape"
            f" {tuple(shape)}, of which {batch} are batch axes (in_size={tuple(in_size)}). Give it one entry"
            " for each trial: these axes, from the left, each of this length or 1 long."
        )
    return valid.reshape(*valid.shape, *[1] * (len(shape) - valid.ndim))


def _current() -> jax.Array | None:
    """Return the mask of the innermost open block, None outside of any."""
    held = MASK.value
    block = innermost() if held else None
    if block is None:
        return None
    valid: jax.Array = held[0]
    if valid is block.valid and not block.in_trace and staged():
        raise MaskError(
            f"step_mask was opened outside of a function that jax compiles (jax.jit, jax.lax.scan, pmap), which"
            f" would keep this mask for good. {OPEN_INSIDE} Or compile with brainstate.transform.jit, which follows it."
        )
    if valid.shape != block.valid.shape:
        raise MaskError(
            f"the step mask of shape {block.valid.shape} arrives in shape {valid.shape}: a filter of states,"
            f" such as state_in_axes, takes it for a State of the model. Name the model's states there. {OPEN_INSIDE}"
        )
    return valid


def _meet(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """Combine two masks that are both aligned from the left."""
    ndim = max(outer.ndim, inner.ndim)
    a, b = (v.reshape(*v.shape, *[1] * (ndim - v.ndim)) for v in (outer, inner))
    try:
        return a & b
    except (TypeError, ValueError) as error:
        raise MaskError(
            f"a mask of shape {inner.shape} inside one of shape {outer.shape}, which does not fit it. Nested"
            " masks are combined, aligned from the left."
        ) from error
