"""The open blocks of the step mask, and the one State that every norm layer reads it from.

What is read while a function is traced becomes a constant of it. Two kinds of caches keep such functions, and each has
to tell a masked call from an unmasked one:

- those of brainstate make every State that a function reads an argument of it, and trace again when its structure
  changes. So the mask is a State, and layers read it also where there is no block. It then holds ``()``, which adds
  nothing to the compiled program.
- those of jax have a context of ours in their keys. So what ``jax.jit`` compiled outside of a block is traced again
  inside, where the layer refuses a mask that would become a constant. A block within a trace has a key of its own: two
  of them share nothing.
"""

import threading
import warnings
from contextlib import AbstractContextManager
from contextvars import ContextVar

import brainstate
import jax
import jax.numpy as jnp

from ..errors import MaskError

__all__ = ["MASK", "OPEN_INSIDE", "Block", "innermost"]

OPEN_INSIDE = "Open the block inside the function: def f(x, alive): with step_mask(alive): return net(x)."

_KEY = jax.make_user_context(None)
Held = tuple[jax.Array, ...]  # what the State holds
_OUTSIDE_OF_TRACES = "a block outside of any trace"
_BLOCK: ContextVar["Block | None"] = ContextVar("braindnorm_step_mask_block", default=None)
_HELD: ContextVar[Held] = ContextVar("braindnorm_step_mask", default=())


class Block:
    """One ``with`` block: its mask, what it covers up, and whether anyone has read it."""

    def __init__(self, valid: jax.Array) -> None:
        self.valid = valid
        self.in_trace = isinstance(valid, jax.core.Tracer) and staged()
        self.key: object = object() if self.in_trace else _OUTSIDE_OF_TRACES
        self.read = False
        self._open = True
        self._thread = threading.get_ident()
        self._context: AbstractContextManager[object] | None = None

    def enter(self) -> None:
        """Make this the innermost block of the running thread and task."""
        self._outer, self._covered = _BLOCK.get(), _HELD.get()
        self._context = _KEY(self.key)
        self._context.__enter__()
        _BLOCK.set(self)
        _HELD.set((self.valid,))

    def leave(self) -> bool:
        """Close the block, and tell whether it was the innermost one here, as it should be."""
        was_innermost = _BLOCK.get() is self
        self._open = False
        _drop_closed()
        return was_innermost

    def drop(self) -> "Block | None":
        """Uncover what this block covers, and return the block around it."""
        if self._context is not None and self._thread == threading.get_ident():
            self._context.__exit__(None, None, None)
            self._context = None
        _HELD.set(self._covered)
        _BLOCK.set(self._outer)
        return self._outer

    @property
    def open(self) -> bool:
        """Whether the block has not been left yet, here or elsewhere."""
        return self._open


class StepMaskState(brainstate.State[Held]):
    """The mask of the innermost block: ``(mask,)``, or ``()`` where there is none.

    The object is one for all threads, since compiled functions keep it. What it holds is each thread's and task's own,
    while a function is traced as well.
    """

    @property
    def value(self) -> Held:
        """The mask; whoever asks has read it."""
        block = innermost()
        if block is not None:
            block.read = True
        held: Held = brainstate.State.value.fget(self)  # type: ignore[attr-defined]
        return held

    @value.setter
    def value(self, held: Held) -> None:
        brainstate.State.value.fset(self, held)  # type: ignore[attr-defined]

    @property
    def _value(self) -> Held:
        return _HELD.get()

    @_value.setter
    def _value(self, held: Held) -> None:
        _HELD.set(held)


MASK = StepMaskState(())
MASK.stack_level = 0  # also if this module is first imported within a trace
# braintrace warns of each State that a program reads and the model does not hold, and then takes it as it is
warnings.filterwarnings("ignore", message="The state StepMaskState", category=UserWarning)


def innermost() -> Block | None:
    """Return the innermost open block of the running thread and task.

    Raises
    ------
    MaskError
        If another thread or task has opened it.
    """
    block = _drop_closed()
    if _KEY.value is not (None if block is None else block.key):
        raise MaskError(
            "this runs while a block of step_mask is open that another task or thread has opened. A block is for the"
            " code that runs inside it: do not await inside it, and open it in the thread that runs the layers."
        )
    return block


def staged() -> bool:
    """Tell whether operations go into a program that is being traced, not only through vmap or grad."""
    return isinstance(jnp.logical_not(False), jax.core.Tracer)


def _drop_closed() -> Block | None:
    block = _BLOCK.get()
    while block is not None and not block.open:
        block = block.drop()
    return block
