"""Statistics over time: a norm with a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

import brainstate
import jax
import jax.numpy as jnp

from .. import units
from .._numerics.axes import Axes, as_size, canonical_axes
from .._numerics.memory import Memory
from ..errors import AxisError, OptionError, UnitError, named
from ..functional import Statistics
from ..functional._enter import enter
from ..functional._leave import leave
from ..functional._over_time import Clock
from ..functional._standardize import standardization
from ..masks._align import align, as_booleans
from ..masks._step_mask import fit_leading, with_step_mask
from ..units import MaskLike, QuantityLike, Result
from ._affine import affine_arguments, check_features
from ._decay import check_decay, rate_of
from ._module import NormModule
from ._norm import norm_options
from ._sequence import move_axis, of_sequence, steps_of
from ._time_arguments import Wrapped, batch_shape, check_time_axis, check_wrapped, each_step
from ._wiring import check_name, label


class OverTime(NormModule):
    r"""A norm whose statistics run over time as well: over all valid steps up to now, and none to come.

    .. math:: y_t = \gamma \, \frac{x_t - \mu_{\le t}}{\sqrt{\sigma^2_{\le t} + \varepsilon}} + \beta , \qquad
       (n, \mu, m_2)_{\le t} = \lambda \odot (n, \mu, m_2)_{\le t-1} \oplus (n, \mu, m_2)_t , \qquad
       \sigma^2 = m_2 / n

    where :math:`\oplus` merges moments exactly [1]_ and :math:`\lambda` weighs the past (:math:`n` and :math:`m_2` are
    multiplied by it). The mean of an RMSNorm is held at 0.

    Parameters
    ----------
    norm : LayerNorm, RMSNorm or GroupNorm
        What is normalized over in each step, with its scale and bias, units, `masked_output` and `axis_name`.
    decay : float, optional
        :math:`\lambda`, from 0 (each step alone: the norm itself) to 1 (the default: nothing is forgotten).
    tau : Quantity or float, optional
        The time constant of forgetting, instead of `decay`: :math:`\lambda = \exp(-\Delta t / \tau)`, with ``dt`` from
        ``brainstate.environ``.
    time_axis : int
        The axis of a whole sequence that is time, for :meth:`update_sequence`.
    name : str, optional
        The module's name, which errors show.

    Raises
    ------
    OptionError
        If an option has no meaning, or :meth:`init_state` has not been called.
    AxisError
        If the input is of another batch size than the memory.
    NormError
        As the norm that is wrapped.

    Notes
    -----
    The memory is a ``ShortTermState`` of plain arrays in the norm's declared `unit` (quantities need one):
    make it with ``init_state(batch_size)``, clear it with ``reset_state()``, and read it with :attr:`statistics`. In a
    step where nothing is valid it stays as it is, bit for bit: such a step does not decay it either.

    :meth:`update` takes a step, as ``for_loop`` runs it; :meth:`update_sequence` takes all steps at once.
    Both start from the memory, leave it as it is at the end, and give the same numbers.

    Around a norm with ``stop_statistics_gradient=True`` the memory is a constant to derivatives, this step's part too.

    Scale and bias of each step (`param_steps`) are those of steps 0, 1, ... of the sequence, or of an array `i` in the
    environment.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H. and LeVeque, R. J. (1979). Updating formulae and a pairwise algorithm for computing
       sample variances. Stanford STAN-CS-79-773.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm import LayerNorm, OverTime
    >>> norm = OverTime(LayerNorm(1))
    >>> norm.init_state()
    >>> def variance(x):
    ...     norm(jnp.array([x]))
    ...     return round(norm.statistics.var.item(), 2)
    >>> [variance(x) for x in (0., 2., 4., 6.)]
    [0.0, 1.0, 2.67, 5.0]
    """

    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element

    def __init__(
        self,
        norm: Wrapped,
        decay: float | None = None,
        tau: QuantityLike | None = None,
        *,
        time_axis: SupportsIndex = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        check_wrapped(norm)
        self.norm = norm
        self.in_size = self.out_size = as_size(norm.in_size)
        self.decay, self.tau = decay, tau
        self.time_axis = check_time_axis(time_axis)
        check_decay(decay, tau)
        self.memory: brainstate.ShortTermState | None = None

    def init_state(self, batch_size: Axes | None = None, **_: object) -> None:
        """Make the memory, empty.

        Parameters
        ----------
        batch_size : int, sequence of int or None
            The batch axes of a step's input; None for a single trial, and under ``vmap``.
        """
        self.memory = brainstate.ShortTermState(self._empty(batch_size))

    def reset_state(self, batch_size: Axes | None = None, **_: object) -> None:
        """Empty the memory; with a `batch_size`, for that many trials."""
        if self.memory is None:
            self.init_state(batch_size)
        elif batch_size is None:
            self.memory.value = jax.tree.map(jnp.zeros_like, self.memory.value)
        else:
            self.memory.value = self._empty(batch_size)

    @property
    def statistics(self) -> Statistics:
        """The count, mean and variance of the past, with their units; the reduced axes are 1 long."""
        with named(label(self)):
            memory, unit = self._memory(), self.norm.unit or units.UNITLESS
        memory = memory.widened(jnp.dtype(brainstate.environ.dftype()))
        mean = units.restore(memory.mean.value, unit)
        return Statistics(memory.count.value, mean, units.restore(memory.var, unit**2))

    def update(self, x: QuantityLike, *, mask: MaskLike | None = None, reset: MaskLike | None = None) -> Result:
        """Normalize one step, and remember it.

        Parameters
        ----------
        x : array_like or Quantity
            The input of this step: the batch axes that :meth:`init_state` was told, then those of `in_size`.
        mask : array_like of bool or int, optional
            True or non-zero where the input is valid, broadcast to it from the right.
        reset : array_like of bool or int, optional
            True where a new trial begins with this step, aligned with the leading (batch) axes.

        Returns
        -------
        Array or Quantity
            Of the shape of `x`, in the norm's `out_unit`.
        """
        mask = with_step_mask(mask, x, self.in_size)
        return self._call(x, mask, self._began(reset, x), sequence=False)

    def update_sequence(
        self, xs: QuantityLike, *, mask: MaskLike | None = None, reset: MaskLike | None = None
    ) -> Result:
        """Normalize all steps of a sequence at once, each by the steps up to it, and remember them.

        Parameters
        ----------
        xs : array_like or Quantity
            As in :meth:`update`, with `time_axis` besides.
        mask : array_like of bool or int, optional
            As in :meth:`update`, with the time axis of `xs`.
        reset : array_like of bool or int, optional
            As in :meth:`update`, with the time axis of `xs`. Without it, or where that is 1 long, trials begin with the
            first step.

        Returns
        -------
        Array or Quantity
            Of the shape of `xs`, in the norm's `out_unit`.
        """
        shape = units.shape_of(xs)
        (axis,) = canonical_axes(self.time_axis, len(shape), option="time_axis")
        if axis >= len(shape) - len(self.norm.in_size):
            raise AxisError(
                f"time_axis={self.time_axis} of a sequence of shape {shape} is one of the axes of"
                f" in_size={self.in_size}. Time comes before them."
            )
        valid = align(with_step_mask(mask, xs, self.in_size), shape)
        began = self._began(reset, xs)
        valid, began = (v if v is None else jnp.moveaxis(v, axis, 0) for v in (valid, began))
        began = each_step(began, shape[axis])
        with brainstate.environ.context(i=steps_of(shape[axis])):
            y = self._call(move_axis(xs, axis, 0), valid, began, sequence=True)
        return move_axis(y, 0, axis)

    def _call(self, x: QuantityLike, mask: MaskLike | None, began: jax.Array | None, *, sequence: bool) -> Result:
        """Normalize one step, or a sequence of them with time first."""
        norm, shape = self.norm, units.shape_of(x)
        check_features(norm, x, norm.affine_param)
        if norm.unit is None and not units.strip(x, None)[1].is_unitless:
            raise UnitError(
                f"the memory has one unit: got an input in {units.strip(x, None)[1]}, but"
                f" the norm has unit=None. Build it with {type(norm).__name__}(..., unit=...)."
            )
        clock = Clock(self._memory(), rate_of(self.decay, self.tau), began, sequence)
        parameters = {"scale": None, "bias": None, **affine_arguments(norm, norm.affine_param, x)}
        options = norm_options(norm, mask) | {"affine": parameters.pop("affine", None)}
        entry = enter(x, parameters, options)
        reduction = of_sequence(norm.reduction(shape[1:])) if sequence else norm.reduction(shape)
        spec = standardization(entry, reduction, options, centred=norm.centred)
        y, last = clock.standardize(entry, spec)
        self._state().value = last.arrays()
        return leave(y, entry)

    def _began(self, reset: MaskLike | None, x: QuantityLike) -> jax.Array | None:
        if reset is None:
            return None
        began = as_booleans(reset, what="reset")
        return fit_leading(began, units.shape_of(x), self.in_size, what="reset")

    def _state(self) -> brainstate.ShortTermState:
        if self.memory is None:
            raise OptionError(
                "there is no memory yet. Call init_state(batch_size), or"
                " brainstate.nn.init_all_states(net, batch_size), before the first step."
            )
        return self.memory

    def _memory(self) -> Memory:
        return Memory.from_arrays(self._state().value)

    def _empty(self, batch_size: Axes | None) -> dict[str, jax.Array]:
        shape = (*batch_shape(batch_size), *self.norm.in_size)
        axes = self.norm.reduction(shape).axes
        kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
        dtype = jnp.promote_types(brainstate.environ.dftype(), jnp.float32)
        return Memory.empty(tuple(kept), dtype).arrays()

    if TYPE_CHECKING:  # brainstate's own takes anything
        __call__ = update
