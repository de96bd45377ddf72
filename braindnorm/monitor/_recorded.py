"""Record the statistics of a norm while a model runs: in a State, so under for_loop, jit, grad and vmap alike."""

from __future__ import annotations

from typing import Any, SupportsIndex

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import OptionError, UnitError, named
from ..layers import OverTime
from ..layers._module import NormModule, Signature
from ..layers._watch import Call, watching
from ..layers._wiring import label
from ..units import QuantityLike, Result, Unit
from ._findings import findings_of, tell
from ._totals import SUMS, AnyNorm, Record, record_of, totals_of

_NOTHING = (units.UNITLESS, units.UNITLESS)


class Recorded(brainstate.nn.Module):
    """A norm that keeps the statistics of its calls.

    Parameters
    ----------
    norm : Module
        A norm of braindnorm or a subclass of one. It is called as before.
    num_steps : int
        How many calls to keep (of ``OverTime.update_sequence``: how many of its steps); those that follow are counted
        and not kept.
    name : str, optional
        The module's name, which errors show.

    Raises
    ------
    OptionError
        If it is another kind of layer.

    Notes
    -----
    A call costs one more pass over the data, and the run keeps 15 numbers a call: no batch axis, whatever is batched.
    Derivatives pass it by. Under ``vmap`` the batch counts as one input. ``init_state`` begins a new record.

    Examples
    --------
    >>> import brainstate, brainunit as u, jax.numpy as jnp
    >>> from braindnorm import LayerNorm
    >>> from braindnorm.monitor import Recorded
    >>> norm = Recorded(LayerNorm(2), num_steps=3)
    >>> v = jnp.array([[-65., -63.], [-60., -56.], [-55., -55.]]) * u.mV
    >>> _ = brainstate.transform.for_loop(norm, v)
    >>> print(norm.read().mean, norm.read().std)
    [-64. -58. -55.] mV [1. 2. 0.] mV
    """

    __signature__ = Signature()

    def __init__(self, norm: AnyNorm, num_steps: SupportsIndex, name: str | None = None) -> None:
        super().__init__(name=name)  # type: ignore[call-arg]  # brainstate hides it from type checkers
        if not isinstance(norm, NormModule):
            raise OptionError(
                f"Recorded takes a norm of braindnorm; got {type(norm).__name__}. Write record(model, num_steps) for"
                " the norms inside of a model."
            )
        if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
            raise OptionError(f"Recorded: num_steps must be a positive integer; got {num_steps!r}.")
        self.norm: AnyNorm = norm
        self.num_steps = int(num_steps)
        self.in_size = self.out_size = norm.in_size
        # the units of the input and the output, once for each dimension that came
        self.units: tuple[tuple[Unit, Unit], ...] = ()
        self.log = brainstate.ShortTermState(self._empty())

    def init_state(self, *args: object, **kwargs: object) -> None:
        """Begin a new record. The norm's own states are its own to initialize."""
        self.log.value = self._empty()

    def update(self, x: QuantityLike, **options: Any) -> Result:
        """Call the norm with `x` and its own options (``mask=...``), and keep the statistics."""
        with watching({self.norm: self.keep}):
            return self.norm(x, **options)

    def keep(self, call: Call) -> None:
        """Keep the statistics of a call of the norm."""
        rows, calls = self._log["rows"], self._log["calls"]
        kind = self._kind(call)
        added = totals_of(self.norm, call, *self.units[kind]).astype(rows.dtype)
        added = jnp.concatenate([jnp.full_like(added[:, :1], kind), added], axis=1)
        steps = calls + jnp.arange(len(added))
        self.log.value = {"rows": rows.at[steps].set(added, mode="drop"), "calls": calls + len(added)}

    @named("read")
    def read(self, unit: Unit | None = None) -> Record:
        """Return what was recorded, one entry a call, as numpy arrays with units. After the run, not within it.

        Parameters
        ----------
        unit : Unit, optional
            Only the calls whose input was of this dimension, in this unit. Needed where inputs of several dimensions
            came, which a norm without a declared unit takes.

        Raises
        ------
        UnitError
            If there are several dimensions and no `unit`, or no input was of its dimension.
        """
        units.check_unit(unit, option="unit")
        kinds = [kind for kind, (came, _) in enumerate(self.units) if unit is None or came.has_same_dim(unit)]
        if len(kinds) > 1 or (unit is not None and not kinds):
            names = " and ".join("no unit" if came.is_unitless else str(came) for came, _ in self.units)
            raise UnitError(
                f"there were inputs in {names or 'no unit at all (it was not called)'}, and one record has"
                f" one dimension; got unit={unit}. Write read(unit=...) with one of theirs."
            )
        came, out_unit = self.units[kinds[0]] if kinds else _NOTHING
        record = record_of(self._rows(kinds[0] if kinds else 0), came, out_unit)
        if unit is None:
            return record
        of_input = (record.mean, record.std, record.running_mean, record.running_std)
        mean, std, kept_mean, kept_std = (units.restore(np.asarray(units.strip(v, unit)[0]), unit) for v in of_input)
        return record._replace(mean=mean, std=std, running_mean=kept_mean, running_std=kept_std)

    def check(self, *, warn: bool = True) -> list[str]:
        """Look for what is nearly always a mistake.

        Parameters
        ----------
        warn : bool
            Give each sentence as a :class:`NormWarning` too.

        Returns
        -------
        list of str
            A sentence for each.
        """
        findings = [
            text for kind, (unit, _) in enumerate(self.units) for text in findings_of(self.norm, self._rows(kind), unit)
        ]
        if self.calls > self.num_steps:
            kept = f"of which the first {self.num_steps} were recorded"
            findings.append(f"{label(self.norm)}: {self.calls} calls, {kept}.")
        return tell(findings, warn)

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return int(self._log["calls"])

    def close(self) -> None:
        """Keep what was recorded: functions that were compiled meanwhile go on writing, but not here."""
        self.log = brainstate.ShortTermState(self.log.value)

    @property
    def _log(self) -> dict[str, jax.Array]:
        log: dict[str, jax.Array] = self.log.value
        return log

    def _kind(self, call: Call) -> int:
        """Return which of the units a call's input is of the dimension of; a new one if of none."""
        norm = self.norm.norm if isinstance(self.norm, OverTime) else self.norm
        came, went = units.strip(call.x, norm.unit)[1], units.strip(call.y, None)[1]
        for kind, (unit, out_unit) in enumerate(self.units):
            if unit.has_same_dim(came) and out_unit.has_same_dim(went):
                return kind
        self.units = (*self.units, (came, went))
        return len(self.units) - 1

    def _empty(self) -> dict[str, jax.Array]:
        return {"rows": jnp.zeros((self.num_steps, 1 + len(SUMS)), jnp.float32), "calls": jnp.zeros((), jnp.int32)}

    def _rows(self, kind: int) -> np.ndarray:
        rows = np.asarray(self._log["rows"])[: self.calls]
        return rows[rows[:, 0] == kind, 1:]
