"""Statistics over time: a norm with a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, SupportsIndex

import brainstate
import jax
import jax.numpy as jnp

from .. import units
from .._numerics.axes import Axes, as_size, canonical_axes
from .._numerics.memory import Memory
from ..errors import AxisError, OptionError, named
from ..functional import Statistics
from ..masks._align import align
from ..masks._step_mask import with_step_mask
from ..units import MaskLike, QuantityLike, Result
from ._decay import check_decay
from ._module import NormModule
from ._over_batch import check_way, end_of_sequence, evaluates
from ._phase import Frozen
from ._sequence import move_axis, steps_of
from ._through_time import normalize
from ._time_arguments import Wrapped, check_time_axis, check_wrapped, each_step, empty_memory, where_trials_begin
from ._wiring import check_name, label
from .divisive_norm import DivisiveNorm


class OverTime(NormModule):
    r"""A norm whose statistics run over time as well: over all valid steps up to now, and none to come.

    .. math:: y_t = \gamma \, \frac{x_t - \mu_{\le t}}{\sqrt{\sigma^2_{\le t} + \varepsilon}} + \beta , \qquad
       (n, \mu, m_2)_{\le t} = \lambda \odot (n, \mu, m_2)_{\le t-1} \oplus (n, \mu, m_2)_t , \qquad
       \sigma^2 = m_2 / n

    where :math:`\oplus` merges moments exactly [1]_ and :math:`\lambda` weighs the past (:math:`n` and :math:`m_2` are
    multiplied by it). The mean of an RMSNorm is held at 0.

    Parameters
    ----------
    norm : LayerNorm, RMSNorm, GroupNorm, BatchNorm or DivisiveNorm
        What is normalized over in each step, with its scale and bias, units, `masked_output` and `axis_name`.
    decay : float, optional
        :math:`\lambda`, from 0 (each step alone: the norm itself) to 1 (the default: nothing is forgotten).
    tau : Quantity or float, optional
        The time constant of forgetting, instead of `decay`: :math:`\lambda = \exp(-\Delta t / \tau)`, with ``dt`` from
        ``brainstate.environ``.
    normalize_by : {'step', 'past', 'running'}, optional
        Whose statistics a BatchNorm takes in training: those of this step (the default), of all steps so far (the
        equation above; all that the other norms take), or the running ones with the gradient of this step's [2]_. See
        the notes.
    max_ratio : float
        The largest ratio of the running standard deviation to that of a step, or of that to this, up to which
        'running' takes the running statistics; beyond, a step takes its own.
    min_count : float
        The least count of valid elements for which a memory is used. Below, a step is normalized by its own statistics.
    time_axis : int
        The axis of a whole sequence that is time, for :meth:`update_sequence`.
    frozen : bool
        Whether the memory is held: steps are normalized by it as it is, a constant, and neither they nor a `reset`
        change it. A BatchNorm is evaluated. An attribute that can be set at any time; compiled functions follow it.
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

    With a BatchNorm and :math:`s = \sqrt{\sigma^2 + \varepsilon}`, 'step' is :math:`y_t = \gamma (x_t - \mu_t) / s_t +
    \beta`, and 'running' :math:`y_t = \gamma (r (x_t - \mu_t) / s_t + d) + \beta`, with :math:`r = s_t / s_r` and
    :math:`d = (\mu_t - \mu_r) / s_r` taken as constants; where r or 1/r exceeds `max_ratio`, r is 1 and d is 0. Running
    statistics get one update a sequence, by all its valid steps together: at :meth:`end_sequence`. With `running_steps`
    each step updates its own at once. Evaluation gives :math:`\gamma (x_t - \mu_r) / s_r + \beta`, without a memory.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H. and LeVeque, R. J. (1979). Updating formulae and a pairwise algorithm for computing
       sample variances. Stanford STAN-CS-79-773.
    .. [2] Ioffe, S. (2017). Batch Renormalization. NeurIPS 30. arXiv:1702.03275. With the bound of Zhu, Y. et al.
       (2024), Online stabilization of spiking neural networks, ICLR: 20, or 50 for event cameras.

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
    normalize_by: Literal["step", "past", "running"]
    max_ratio: float
    min_count: float
    frozen = Frozen()

    def __init__(
        self,
        norm: Wrapped,
        decay: float | None = None,
        tau: QuantityLike | None = None,
        *,
        normalize_by: Literal["step", "past", "running"] | None = None,
        max_ratio: float = 20.0,
        min_count: float = 1,
        time_axis: SupportsIndex = 0,
        frozen: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        check_wrapped(norm)
        self.norm = norm
        self.in_size = self.out_size = as_size(norm.in_size)
        self.decay, self.tau = decay, tau
        self.time_axis = check_time_axis(time_axis)
        check_decay(decay, tau)
        check_way(self, normalize_by, max_ratio, min_count)
        self.frozen = frozen
        self.memory: brainstate.ShortTermState | None = None

    def init_state(self, batch_size: Axes | None = None, **_: object) -> None:
        """Make the memory, empty.

        Parameters
        ----------
        batch_size : int, sequence of int or None
            The batch axes of a step's input; None for a single trial, and under ``vmap``.
        """
        self.memory = brainstate.ShortTermState(empty_memory(self.norm, batch_size))

    def reset_state(self, batch_size: Axes | None = None, **_: object) -> None:
        """Empty the memory; with a `batch_size`, for that many trials."""
        if self.memory is None:
            self.init_state(batch_size)
        elif batch_size is None:
            self.memory.value = jax.tree.map(jnp.zeros_like, self.memory.value)
        else:
            self.memory.value = empty_memory(self.norm, batch_size)

    def end_sequence(self) -> None:
        """End a sequence: update the running statistics of a BatchNorm, once, by the memory, and empty it.

        In evaluation, and if frozen, nothing is done.
        """
        if not evaluates(self) and not self.frozen:
            end_of_sequence(self)
            self.reset_state()

    @property
    def statistics(self) -> Statistics:
        """The count, mean and variance of the past, with units; for a DivisiveNorm 0 and the pool, in unit ** n."""
        with named(label(self)):
            memory, unit = self._memory(), self.norm.unit or units.UNITLESS
        power = self.norm.exponent if isinstance(self.norm, DivisiveNorm) else 2
        memory = memory.widened(jnp.dtype(brainstate.environ.dftype()))
        mean = units.restore(memory.mean.value, unit)
        return Statistics(memory.count.value, mean, units.restore(memory.var, unit**power))

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
        began = where_trials_begin(reset, x, self.in_size)
        return normalize(self, x, with_step_mask(mask, x, self.in_size), began, sequence=False)

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
            True where a new trial begins, aligned with the leading axes of `xs`, of which `time_axis` is one. Where it
            lacks that axis, or that is 1 long, trials begin with the first step: ``True``, or ``trials[None]``.

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
        began = where_trials_begin(reset, xs, self.in_size)
        valid, began = (v if v is None else jnp.moveaxis(v, axis, 0) for v in (valid, began))
        began = each_step(began, shape[axis])
        with brainstate.environ.context(i=steps_of(shape[axis])):
            y = normalize(self, move_axis(xs, axis, 0), valid, began, sequence=True)
        return move_axis(y, 0, axis)

    def _state(self) -> brainstate.ShortTermState:
        if self.memory is None:
            raise OptionError(
                "there is no memory yet. Call init_state(batch_size), or"
                " brainstate.nn.init_all_states(net, batch_size), before the first step."
            )
        return self.memory

    def _memory(self) -> Memory:
        return Memory.from_arrays(self._state().value)

    if TYPE_CHECKING:  # brainstate's own takes anything
        __call__ = update
