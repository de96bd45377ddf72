"""Record the statistics of a norm while a model runs: in a State, so under for_loop, jit, grad and vmap alike."""

from typing import Any

import brainstate
import jax.numpy as jnp
import numpy as np

from .. import units
from ..errors import OptionError
from ..layers import GroupNorm, LayerNorm, RMSNorm
from ..layers._wiring import label
from ._findings import findings_of, tell
from ._totals import SUMS, Record, record_of, totals_of

KINDS = (LayerNorm, RMSNorm, GroupNorm)


class Recorded(brainstate.nn.Module):
    """A norm that keeps the statistics of its calls.

    Parameters
    ----------
    norm : LayerNorm, RMSNorm or GroupNorm
        The norm, which is called as before. Its statistics come from the input in its unit, or in the unit of the
        first call.
    num_steps : int
        How many calls to keep; those that follow are counted and not kept.
    name : str, optional
        The module's name, which errors show.

    Raises
    ------
    OptionError
        If it is another kind of layer.

    Notes
    -----
    A call costs one more pass over the data, and the run keeps 11 numbers a call: no batch axis, whatever is batched.
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

    def __init__(self, norm: Any, num_steps: int, name: str | None = None) -> None:
        super().__init__(name=name)  # type: ignore[call-arg]  # brainstate hides it from type checkers
        if type(norm) not in KINDS:
            raise OptionError(f"Recorded takes a LayerNorm, an RMSNorm or a GroupNorm; got {type(norm).__name__}.")
        if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
            raise OptionError(f"Recorded: num_steps must be a positive integer; got {num_steps!r}.")
        self.norm: Any = norm
        self.num_steps = int(num_steps)
        self.in_size = self.out_size = self.norm.in_size
        self.unit: Any = None
        self.out_unit: Any = None
        self.log: Any = brainstate.ShortTermState(self._empty())

    def init_state(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new record."""
        self.log.value = self._empty()

    def update(self, x: Any, *, mask: Any = None) -> Any:
        """Normalize `x` with the norm, and keep the statistics."""
        y = self.norm(x, mask=mask)
        if self.unit is None:
            self.unit = units.strip(x, self.norm.unit, name=label(self))[1]
            self.out_unit = units.strip(y, None, name=label(self))[1]
        row = totals_of(self.norm, x, y, mask, self.unit, self.out_unit)
        rows, calls = self.log.value["rows"], self.log.value["calls"]
        self.log.value = {"rows": rows.at[calls].set(row.astype(rows.dtype), mode="drop"), "calls": calls + 1}
        return y

    def read(self) -> Record:
        """Return what was recorded, one entry a call, as numpy arrays with units. After the run, not within it."""
        return record_of(self._rows(), self._unit(), units.UNITLESS if self.out_unit is None else self.out_unit)

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
        found = findings_of(self.norm, self._rows(), self._unit())
        if self.calls > self.num_steps:
            found.append(f"{label(self.norm)}: {self.calls} calls, of which the first {self.num_steps} were recorded.")
        return tell(found, warn)

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return int(self.log.value["calls"])

    def _empty(self) -> dict[str, Any]:
        return {"rows": jnp.zeros((self.num_steps, len(SUMS)), jnp.float32), "calls": jnp.zeros((), jnp.int32)}

    def _rows(self) -> np.ndarray:
        return np.asarray(self.log.value["rows"])[: self.calls]

    def _unit(self) -> Any:
        return units.UNITLESS if self.unit is None else self.unit
