"""Layer normalization as a Module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from brainstate import ParamState
from brainstate.nn import init

from .. import functional
from .._numerics.axes import Axes, as_axes, as_size, canonical_axes
from .._numerics.collectives import AxisName
from .._numerics.moments import Reduction
from ..errors import named
from ..functional._arguments import says_what_to_write
from ..functional._enter import MaskedOutput
from ..functional._reduction import reduction_over
from ..units import DtypeLike, Initializer, MaskLike, QuantityLike, Result, Shape, Unit
from ._affine import NormParam, ReadOut, affine_arguments, check_features, explain_missing, make_affine
from ._norm import AffineModule, norm_options
from ._per_step import check_param_steps
from ._wiring import call_options, check_name, keep_options


class LayerNorm(AffineModule):
    r"""Layer normalization [1]_ that knows units and masks.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    with the mean :math:`\mu` and the variance :math:`\sigma^2` of the valid elements along `reduction_axes`.

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the input without its batch axes. Only the feature axes of an input are compared with it: the others
        may be of any length, since images of another size and shorter sequences are valid. Without parameters, and with
        features that devices may share, so is a part.
    reduction_axes : int or sequence of int
        The axes of the input that the statistics run over. Write negative ones: they count from the right, whatever
        batch or time axes come before, and under ``vmap``. Positive ones index the input as it comes.
    feature_axes : int or sequence of int
        The axes of `in_size` along which scale and bias vary.
    epsilon : float or Quantity
        :math:`\varepsilon`, added to the variance. A plain number is in (reference unit)^2; a quantity of the input's
        dimension squared is a variance; one of the input's dimension is a standard deviation (a noise floor) and is
        squared. For an input in mV/V, which has no dimension, it must be in exactly that unit squared, or in that unit.
    use_bias : bool
        Whether to learn a bias (beta), of the shape of the scale.
    use_scale : bool
        Whether to learn a scale (gamma), of the length of `in_size` on the feature axes and 1 elsewhere.
    bias_init : callable, array_like or Quantity
        The initial bias, in the ways of `scale_init`.
    scale_init : callable, array_like or Quantity
        The initial scale, in `out_unit`. A quantity sets `out_unit` and is stored as a plain array, so that optimizers
        and checkpoints see plain parameters. A threshold-dependent scale is ``Constant(alpha * (V_th - V_rest))``.
    axis_name : hashable or tuple of hashable, optional
        Mapped axes of ``vmap``, ``pmap`` or ``shard_map`` over which the statistics run too.
    axis_index_groups : sequence of sequence of int, optional
        Indices along `axis_name` that share statistics: each index once, groups even or uneven.
    use_fast_variance : bool
        True is right to the rounding of a careful two-pass (2e-3 at -65 mV with a spread of 0.01 mV in float32). False
        uses a compensated mean (1e-5 there), and gives a constant shift a tangent of exactly 0.
    dtype : dtype, optional
        The dtype of the result. None promotes the input with scale and bias; integers and booleans become float.
        Statistics are at least float32.
    param_type : type
        The ParamState that holds scale and bias; its ``execute(z)`` applies them.
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
    stop_statistics_gradient : bool
        Whether the statistics are constants to derivatives, so that each element has one of its own: :math:`\dot y =
        \gamma\, \dot x / \sqrt{\sigma^2 + \varepsilon}` of a change of the input. Values are the same, and scale, bias
        and epsilon keep their derivatives. It is for online learning rules, which lose what comes before a norm that
        subtracts the mean.
    name : str, optional
        The module's name, which errors show.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    See Also
    --------
    RMSNorm : without centring and bias.
    GroupNorm : statistics per group of channels.
    braindnorm.functional.layer_norm : the same as a function.

    References
    ----------
    .. [1] Ba, J. L., Kiros, J. R. and Hinton, G. E. (2016). Layer normalization. arXiv:1607.06450.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm import LayerNorm
    >>> norm = LayerNorm(3, unit=u.mV, out_unit=u.UNITLESS)
    >>> norm(jnp.array([-0.066, -0.064, -0.061]) * u.volt).round(2)
    Array([-1.14, -0.16,  1.3 ], dtype=float32)
    """

    scale_quantity = ReadOut("scale")
    bias_quantity = ReadOut("bias")
    if not TYPE_CHECKING:  # a type checker would take every name for an attribute
        __getattr__ = explain_missing
    reduction_axes: Shape
    centred = True

    @says_what_to_write()
    def __init__(
        self,
        in_size: Axes,
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        *,
        epsilon: QuantityLike = 1e-6,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = init.ZeroInit(),  # noqa: B008  (brainstate's default, without state)
        scale_init: Initializer = init.Constant(1.0),  # noqa: B008
        axis_name: AxisName | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        use_fast_variance: bool = True,
        dtype: DtypeLike | None = None,
        param_type: type[ParamState] = NormParam,
        unit: Unit | None = None,
        out_unit: Unit | None = None,
        masked_output: MaskedOutput = "zero",
        param_steps: SupportsIndex | None = None,
        stop_statistics_gradient: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        size = as_size(in_size)
        self.in_size = self.out_size = size
        self.reduction_axes = as_axes(reduction_axes, option="reduction_axes")
        self.feature_axes = canonical_axes(feature_axes, len(size), option="feature_axes")
        self.use_scale, self.use_bias = use_scale, use_bias
        self.scale_init, self.bias_init = scale_init, bias_init
        self.param_steps = check_param_steps(param_steps)
        self.weight, out_unit = make_affine(self, param_type, {"scale": use_scale, "bias": use_bias}, out_unit)
        keep_options(
            self,
            epsilon=epsilon,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
            stop_statistics_gradient=stop_statistics_gradient,
            dtype=dtype,
            unit=unit,
            out_unit=out_unit,
            masked_output=masked_output,
        )

    @classmethod
    def from_normalized_shape(
        cls,
        normalized_shape: Axes,
        epsilon: QuantityLike = 1e-5,
        elementwise_affine: bool = True,
        use_bias: bool = True,
        **options: Any,
    ) -> Self:
        """Build the layer as torch and BrainPy spell it: the trailing axes, with elementwise scale and bias.

        Parameters
        ----------
        normalized_shape : int or sequence of int
            The lengths of the trailing axes that are normalized.
        epsilon : float or Quantity
            As in the constructor.
        elementwise_affine : bool
            Whether to learn a scale (and a bias, with `use_bias`) for every element of `normalized_shape`.
        use_bias : bool
            Whether to learn a bias too.
        **options
            The other options of the constructor.

        Examples
        --------
        >>> from braindnorm import LayerNorm
        >>> LayerNorm.from_normalized_shape((4, 8)).weight.value["bias"].shape
        (4, 8)
        """
        with named(cls.__name__):
            size = as_size(normalized_shape)
        axes = tuple(range(-len(size), 0))
        use_bias = elementwise_affine and use_bias
        return cls(size, axes, axes, epsilon=epsilon, use_scale=elementwise_affine, use_bias=use_bias, **options)

    @property
    def affine_param(self) -> ParamState | None:
        """The state with the learned parameters; None if there are none."""
        return self.weight

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""
        return reduction_over(shape, self.reduction_axes, norm_options(self))

    @says_what_to_write(hint="The mask is given as mask=mask")
    def update(self, x: QuantityLike, *, mask: MaskLike | None = None) -> Result:
        """Normalize `x`.

        Parameters
        ----------
        x : array_like or Quantity
            The input; its trailing axes are those of `in_size`.
        mask : array_like of bool or int, optional
            True or non-zero where the input is valid, broadcast to it from the right.

        Returns
        -------
        Array or Quantity
            Of the shape of `x`, in `out_unit`.
        """
        check_features(self, x, self.weight)
        return functional.layer_norm(
            x,
            reduction_axes=self.reduction_axes,
            **affine_arguments(self, self.weight, x),
            **call_options(self, x, mask),
        )

    if TYPE_CHECKING:  # brainstate's own takes anything
        __call__ = update
