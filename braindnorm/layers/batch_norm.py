"""Batch normalization as a Module."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import brainstate
from brainstate import ParamState
from brainstate.nn import init

from .. import functional
from .._numerics.axes import Axes, as_size, canonical_axes
from .._numerics.moments import Reduction
from ..functional._arguments import says_what_to_write
from ..functional._batch_norm import check_momentum
from ..functional._enter import MaskedOutput
from ..functional._reduction import reduction_over
from ..units import DtypeLike, Initializer, MaskLike, QuantityLike, Result, Unit
from ._affine import NormParam, ReadOut, affine_arguments, check_features, explain_missing, make_affine
from ._gain import make_gain, with_gain
from ._norm import AffineModule, norm_options
from ._per_step import check_param_steps
from ._phase import Frozen, trains
from ._running import RunningReadOut, check_one_unit, check_rank, counted_apart, known_to, make_running, remember
from ._wiring import call_options, check_name, keep_flags, keep_options


class BatchNorm(AffineModule):
    r"""Batch normalization [1]_ over any number of leading axes (time, batch), which knows units, masks and phases.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    In training, :math:`\mu` and :math:`\sigma^2` are those of the :math:`n` valid elements of each channel in this
    call, over all other axes, and what is kept of them is

    .. math:: \mu_r \leftarrow m \mu_r + (1 - m)\, \mu, \qquad \sigma^2_r \leftarrow m \sigma^2_r + (1 - m)\, \sigma^2 .

    In evaluation :math:`\mu = \mu_r` and :math:`\sigma^2 = \sigma^2_r`, element by element, and nothing is written.
    ``brainstate.environ`` says which it is: ``fit=True`` or ``fit=False``.

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the input without its batch axes. Only the feature axes of an input are compared with it: the others
        may be of any length, since images of another size and shorter sequences are valid. Without parameters, and with
        features that devices may share, so is a part.
    feature_axis : int or sequence of int
        The axes of `in_size` that hold the channels: statistics, scale and bias are of each channel.
    track_running_stats : bool
        Whether to keep running statistics. Without them every call is normalized by its own, in both phases.
    epsilon : float or Quantity
        :math:`\varepsilon`, added to the variance. A plain number is in (reference unit)^2; a quantity of the input's
        dimension squared is a variance; one of the input's dimension is a standard deviation (a noise floor) and is
        squared. For an input in mV/V, which has no dimension, it must be in exactly that unit squared, or in that unit.
    momentum : float
        :math:`m`, the weight of what was kept, from 0 to 1. torch's is 1 - m.
    affine : bool
        Whether to learn a scale (gamma) and a bias (beta), of each channel.
    bias_initializer : callable, array_like, Quantity or None
        The initial bias, as `scale_initializer`; None for none.
    scale_initializer : callable, array_like or Quantity
        The initial scale, in `out_unit`. A quantity sets `out_unit` and is stored as a plain array.
    axis_name : hashable or tuple of hashable, optional
        Mapped axes of ``vmap``, ``pmap`` or ``shard_map`` over which the statistics run too.
    axis_index_groups : sequence of sequence of int, optional
        Indices along `axis_name` that share statistics: each index once, groups even or uneven.
    use_fast_variance : bool
        True is right to the rounding of a careful two-pass (2e-3 at -65 mV with a spread of 0.01 mV in float32). False
        uses a compensated mean (1e-5 there), and gives a constant shift a tangent of exactly 0.
    name : str, optional
        The module's name, which errors show.
    dtype : dtype, optional
        The dtype of the result. None promotes the input with scale and bias; integers and booleans become float.
        Statistics are at least float32.
    param_type : type
        The ParamState that holds scale and bias; its ``execute(z)`` applies them.
    mean_type : type
        The State that holds the running mean, and the running variance.
    unit : Unit, optional
        The reference unit: input is converted to it, and anything of another dimension is refused, a plain array too.
        With None it is the unit that arrives.
    out_unit : Unit, optional
        The unit of the output, in which scale and bias count. None restores the reference unit (or takes the unit of a
        scale or bias that is a quantity); ``brainunit.UNITLESS`` gives a plain array.
    masked_output : {'zero', 'input', 'normalize'}
        What comes out at masked positions: 0; the input, where the output's unit is of the input's dimension; or the
        input normalized with the statistics of the valid ones (what is not finite counts as 0).
    param_steps : int, optional
        With T, scale and bias get a leading axis of T time steps. The steps that an input is of come from
        ``brainstate.environ.context(i=...)``: an integer in the body of a loop, or ``i=jnp.arange(T)`` around a call on
        a whole sequence, time first. With a call of OverTime on a sequence they count from 0 unless `i` is given.
    running_steps : int, optional
        With T, statistics are of each step `i` alone, and the running ones get a leading axis of T time steps.
    gain_steps : int, optional
        With T, the result is multiplied by a learned gain of each time step, from 1: the state `gain` of shape (T,).
    gain_power : {1, 2}
        The power of the gain.
    unbiased : bool
        Whether the running variance is updated by :math:`m_2 / (n - 1)`, as in torch, and not by :math:`m_2 / n`.
    frozen : bool
        Whether the running statistics are held, and used as constants, in training too. An attribute that can be set at
        any time, and that compiled functions follow.
    stop_statistics_gradient : bool
        Whether the statistics are constants to derivatives, so that each element has one of its own: :math:`\dot y =
        \gamma\, \dot x / \sqrt{\sigma^2 + \varepsilon}` of a change of the input. Values are the same, and scale, bias
        and epsilon keep their derivatives. It is for online learning rules, which lose what comes before a norm that
        subtracts the mean.

    Raises
    ------
    PhaseError
        If the environment has no `fit`, or what ``jax.jit`` compiles would keep it.
    AxisNameError
        If it trains under ``vmap`` without an `axis_name`.
    NormError
        See :mod:`braindnorm.functional`.

    Notes
    -----
    The running statistics are plain arrays in float32 at least, in `unit` and its square, updated once a call, but in
    channels with nothing valid. One valid element has the variance 0; with `unbiased` it updates the mean alone.

    See Also
    --------
    OverTime : one update a sequence, in a loop.
    braindnorm.functional.batch_norm, braindnorm.functional.update_running : the same as pure functions.

    References
    ----------
    .. [1] Ioffe, S. and Szegedy, C. (2015). Batch normalization. ICML 32. arXiv:1502.03167.

    Examples
    --------
    >>> import brainstate, brainunit as u, jax.numpy as jnp
    >>> from braindnorm import BatchNorm
    >>> norm = BatchNorm(1, unit=u.mV, out_unit=u.UNITLESS, momentum=0.0)
    >>> with brainstate.environ.context(fit=True):
    ...     print(norm(jnp.array([[-66.], [-62.]]) * u.mV).round(2))
    [[-1.]
     [ 1.]]
    >>> print(norm.running_mean_quantity, norm.running_var_quantity)
    [-64.] mV [4.] mV^2
    >>> with brainstate.environ.context(fit=False):
    ...     norm(jnp.array([-60.]) * u.mV).round(2)
    Array([2.], dtype=float32)
    """

    num_spatial_dims: int | None = None
    track_running_stats: bool
    affine: bool
    unbiased: bool
    running_steps: int | None
    gain_steps: int | None
    gain_power: int
    scale_quantity = ReadOut("scale")
    bias_quantity = ReadOut("bias")
    running_mean_quantity = RunningReadOut("running_mean", 1)
    running_var_quantity = RunningReadOut("running_var", 2)
    frozen = Frozen()
    if not TYPE_CHECKING:  # a type checker would take every name for an attribute
        __getattr__ = explain_missing
    centred = True

    @says_what_to_write()
    def __init__(
        self,
        in_size: int | Sequence[int],
        feature_axis: Axes = -1,
        *,
        track_running_stats: bool = True,
        epsilon: QuantityLike = 1e-5,
        momentum: float = 0.99,
        affine: bool = True,
        bias_initializer: Initializer | None = init.Constant(0.0),  # noqa: B008  (brainstate's default, without state)
        scale_initializer: Initializer = init.Constant(1.0),  # noqa: B008
        axis_name: Hashable | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        use_fast_variance: bool = True,
        name: str | None = None,
        dtype: DtypeLike | None = None,
        param_type: type = NormParam,
        mean_type: type = brainstate.BatchState,
        unit: Unit | None = None,
        out_unit: Unit | None = None,
        masked_output: MaskedOutput = "zero",
        param_steps: int | None = None,
        running_steps: int | None = None,
        gain_steps: int | None = None,
        gain_power: int = 1,
        unbiased: bool = False,
        frozen: bool = False,
        stop_statistics_gradient: bool = False,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        self.in_size = self.out_size = size = as_size(in_size)
        check_rank(self, self.num_spatial_dims)
        self.feature_axes = canonical_axes(feature_axis, len(size), option="feature_axis")
        self.reduction_axes = tuple(a - len(size) for a in range(len(size)) if a not in self.feature_axes)
        keep_flags(self, track_running_stats=track_running_stats, affine=affine, unbiased=unbiased)
        self.scale_initializer, self.bias_initializer = scale_initializer, bias_initializer
        self.momentum, self.param_steps = check_momentum(momentum), check_param_steps(param_steps)
        learn = {"scale": affine, "bias": affine and bias_initializer is not None}
        self.weight, out_unit = make_affine(self, param_type, learn, out_unit)
        keep_options(
            self, epsilon=epsilon, axis_name=axis_name, axis_index_groups=axis_index_groups, dtype=dtype, unit=unit,
            use_fast_variance=use_fast_variance, out_unit=out_unit, masked_output=masked_output,
            stop_statistics_gradient=stop_statistics_gradient,
        )  # fmt: skip
        self.running_mean, self.running_var = make_running(self, dtype, mean_type, running_steps)
        self.gain = make_gain(self, gain_steps, gain_power)
        self.frozen = frozen

    @property
    def affine_param(self) -> ParamState | None:
        """The state with the learned parameters; None if there are none."""
        return self.weight

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""
        channels = {axis - len(self.in_size) + len(shape) for axis in self.feature_axes}
        return reduction_over(shape, [axis for axis in range(len(shape)) if axis not in channels], norm_options(self))

    def update(self, x: QuantityLike, mask: MaskLike | None = None) -> Result:
        """Normalize `x`; in training, update the running statistics.

        Parameters
        ----------
        x : array_like or Quantity
            The input: any leading axes, then those of `in_size`.
        mask : array_like of bool or int, optional
            True or non-zero where the input is valid, broadcast to it from the right.

        Returns
        -------
        Array or Quantity
            Of the shape of `x`, in `out_unit`.
        """
        check_features(self, x, self.running_mean if self.weight is None else self.weight)
        check_one_unit(self, x)
        running = known_to(self, x) if self.track_running_stats and not trains(self) else None
        options = {**with_gain(self, affine_arguments(self, self.weight, x), x), **call_options(self, x, mask)}
        y, statistics = functional.batch_norm(x, running=running, feature_axis=counted_apart(self, x), **options)
        if self.track_running_stats and running is None:
            remember(self, statistics, x)
        return y

    if TYPE_CHECKING:  # brainstate's own takes anything
        __call__ = update
