"""The phase that a layer is in: training, or evaluation. What was compiled in one is never run in the other.

The phase is read while a function is traced, and becomes a constant of it. Two kinds of caches keep such functions:

- those of brainstate make every State that a function reads an argument of it, and trace again when its structure
  changes. So a layer reads a State without numbers, whose structure is the phase. It is looked up each time that the
  structure is asked for, and thus in the environment of whoever calls the compiled function: a phase that the function
  sets for itself is no reason to trace again.
- those of jax have a context of ours in their keys, which :func:`phase` enters. Without it a phase from outside would
  be kept in silence, and is refused.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import brainstate
import jax
import numpy as np

from ..errors import OptionError, PhaseError, named
from ..masks._blocks import staged
from ._never_updated import look_if_unseen
from ._wiring import label

if TYPE_CHECKING:
    from .batch_norm import BatchNorm
    from .over_time import OverTime

_KEY = jax.make_user_context(None)
# how often any layer was frozen or thawed: compiled functions of jax are not to keep what it was before
_CHANGES = [0]
SET = "with brainstate.environ.context(fit=True) to train, fit=False to evaluate"


@contextmanager
def phase(fit: bool) -> Iterator[None]:
    """Run what is in the ``with`` block in one phase, and let jax know.

    Like ``brainstate.environ.context(fit=...)``; and it can be used around and inside functions that ``jax.jit``,
    ``jax.lax.scan`` or ``jax.checkpoint`` compile, which do not look at the environment.

    Parameters
    ----------
    fit : bool
        True to train, False to evaluate.

    Raises
    ------
    PhaseError
        If `fit` is not True or False.

    Examples
    --------
    >>> import braindnorm, jax, jax.numpy as jnp
    >>> norm = braindnorm.BatchNorm(2)
    >>> call = jax.jit(norm)
    >>> with braindnorm.phase(fit=False):
    ...     print(call(jnp.ones((1, 2))).round(3))
    [[1. 1.]]
    """
    with named("phase"):
        now = _as_phase(fit)
    with brainstate.environ.context(fit=now), _KEY((now, _CHANGES[0])):
        yield


class Frozen:
    """Whether a layer keeps its statistics as they are: an attribute that compiled functions follow."""

    def __get__(self, layer: BatchNorm | OverTime | None, owner: type) -> Any:
        return self if layer is None else layer._frozen  # type: ignore[union-attr]

    def __set__(self, layer: BatchNorm | OverTime, frozen: object) -> None:
        with named(label(layer)):
            self._check(layer, frozen)
        layer._frozen = bool(frozen)  # type: ignore[union-attr]  # kept under another name than it is read

    def _check(self, layer: BatchNorm | OverTime, frozen: object) -> None:
        if not isinstance(frozen, bool | np.bool_):
            raise OptionError(f"frozen must be True or False; got {frozen!r}.")
        if frozen and not getattr(layer, "track_running_stats", True):
            raise OptionError("frozen=True holds the running statistics, but track_running_stats=False keeps none.")
        before = vars(layer).get("_frozen")
        if before is not None and before != frozen:
            if _KEY.value is not None:
                raise PhaseError(
                    "frozen is changed inside a block of braindnorm.phase, for which jax may have compiled"
                    " functions already. Change it before the block."
                )
            _CHANGES[0] += 1


def trains(layer: BatchNorm) -> bool:
    """Tell whether this call of a layer trains, and have compiled functions ask again.

    Raises
    ------
    PhaseError
        If nobody has said; or if jax compiles the function, and would keep a phase that comes from outside.
    """
    _state_of(layer).value  # noqa: B018  (whoever reads it is traced again in another phase)
    now = _current(layer)
    if not _TEMPLATE.copy().stack_level:  # as it is in no trace of brainstate
        _check_kept(layer)
    if now is None:
        raise PhaseError(
            f"it is not known whether to train or to evaluate: the environment has no fit. Write {SET}; or"
            " brainstate.environ.set(fit=...) for the whole program."
        )
    return now


def held(layer: BatchNorm | OverTime) -> bool:
    """Tell whether a layer is frozen, whatever the phase, and have compiled functions ask again."""
    _state_of(layer).value  # noqa: B018
    if not _TEMPLATE.copy().stack_level:
        _check_kept(layer)
    frozen: bool = layer.frozen
    return frozen


def _current(layer: BatchNorm | OverTime) -> bool | None:
    """Return whether the phase of the environment is training; None where there is none."""
    if layer.frozen:
        return False
    has_phases = getattr(layer, "track_running_stats", False)  # what has none may be frozen all the same
    fit = brainstate.environ.get("fit", None) if has_phases else None
    return None if fit is None else _as_phase(fit)


def _as_phase(fit: Any) -> bool:
    known = not isinstance(fit, jax.core.Tracer) and np.ndim(fit) == 0
    if not known or np.asarray(fit).dtype.kind not in "bi" or fit not in (0, 1):
        raise PhaseError(f"fit must be True or False, and known while a function is traced; got {fit!r}.")
    return bool(fit)


def _check_kept(layer: BatchNorm | OverTime) -> None:
    """Raise if a function that jax compiles, outside of brainstate's, would keep the phase for good."""
    now = _current(layer)
    if now is None or not staged() or (_KEY.value is not None and (layer.frozen or _KEY.value[0] == now)):
        return
    raise PhaseError(
        "jax compiles this function (jax.jit, jax.lax.scan, jax.checkpoint), and would keep the phase"
        f" fit={now} for good. Compile it with brainstate.transform, which follows the environment; or set the phase"
        f" with braindnorm.phase(fit={now}), around the call or inside the function."
    )


class _Asked:
    """A tree without leaves, whose structure is what a function returns whenever it is asked for."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.ask = ask


jax.tree_util.register_pytree_node(_Asked, lambda asked: ((), asked.ask()), lambda known, _: _Asked(lambda: known))


class _Phase(brainstate.State[Any]):
    """The phase of one layer, as a State that holds no numbers and cannot be written."""

    @property
    def _value(self) -> _Asked:
        # what brainstate keeps of a State that a trace reads; it looks at the structure after that trace
        return _asked_of(vars(self)["layer"], check=True)

    @_value.setter
    def _value(self, _: Any) -> None:
        """Nothing is kept."""

    def _read_value(self) -> _Asked:
        return _asked_of(vars(self)["layer"], check=False)

    def restore_value(self, v: Any) -> None:
        """Do nothing, as nothing is kept."""


def _asked_of(this: Callable[[], Any], *, check: bool) -> _Asked:
    def ask() -> bool | None:
        layer = this()
        if layer is None:
            return None
        with named(label(layer)):
            if check and not _TEMPLATE.copy().stack_level:
                _check_kept(layer)
                look_if_unseen(layer)
            return _current(layer)

    return _Asked(ask)


_TEMPLATE = _Phase(())
# as of the step mask: braintrace warns of each State that a program reads and the model does not hold
warnings.filterwarnings("ignore", message="The state _Phase", category=UserWarning)
# not attributes of the layers: they are no part of a model's states, and a copy of a layer has its own
_STATES: weakref.WeakKeyDictionary[BatchNorm | OverTime, _Phase] = weakref.WeakKeyDictionary()


def _state_of(layer: BatchNorm | OverTime) -> _Phase:
    if layer not in _STATES:
        state: Any = _TEMPLATE.copy()
        state.stack_level = 0  # also if it is made within a trace
        vars(state)["layer"] = weakref.ref(layer)
        _STATES[layer] = state
    return _STATES[layer]
