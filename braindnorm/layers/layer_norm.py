"""Layer normalization as a Module."""

from collections.abc import Hashable, Sequence
from typing import Any, Self

import brainstate
from brainstate.nn import init

from .. import functional
from .._numerics.axes import Axes, as_axes, as_size, canonical_axes
from .._numerics.moments import Reduction
from ..functional._reduction import reduction_over
from ._affine import NormParam, check_features, learned, make_affine
from ._norm import norm_options
from ._per_step import check_num_steps
from ._wiring import call_options, check_name, keep_options, label


class LayerNorm(brainstate.nn.Module):
    r"""Layer normalization [1]_ that knows units and masks.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    with the mean :math:`\mu` and the variance :math:`\sigma^2` of the valid elements along `reduction_axes`.

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the input without its batch axes.
    reduction_axes : int or sequence of int
        The axes of the input that the statistics run over. Write negative ones: they count from the right, whatever
        batch or time axes come before, and under ``vmap``. Positive ones index the input as it comes.
    feature_axes : int or sequence of int
        The axes of `in_size` along which scale and bias vary.
    **options
        `epsilon`, `use_bias`, `use_scale`, `bias_init`, `scale_init`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `dtype`, `param_type`, `unit`, `out_unit`, `masked_output`, `num_steps`, `name`:
        see :mod:`braindnorm.layers`.

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
    >>> norm(jnp.array([-0.065, -0.064, -0.063]) * u.volt).round(2)
    Array([-1.22,  0.  ,  1.22], dtype=float32)
    """

    centred = True
    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element

    def __init__(
        self,
        in_size: int | Sequence[int],
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        *,
        epsilon: Any = 1e-6,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = init.ZeroInit(),  # noqa: B008  (brainstate's default, without state)
        scale_init: Any = init.Constant(1.0),  # noqa: B008
        axis_name: Hashable | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        use_fast_variance: bool = True,
        dtype: Any = None,
        param_type: type = NormParam,
        unit: Any = None,
        out_unit: Any = None,
        masked_output: str = "zero",
        num_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=check_name(name, self))  # type: ignore[call-arg]  # brainstate hides it from type checkers
        size = as_size(in_size, name=label(self))
        self.in_size = self.out_size = size
        self.reduction_axes = as_axes(reduction_axes, option="reduction_axes", name=label(self))
        self.feature_axes = canonical_axes(feature_axes, len(size), option="feature_axes", name=label(self))
        self.use_scale, self.use_bias = use_scale, use_bias
        self.scale_init, self.bias_init = scale_init, bias_init
        self.num_steps = check_num_steps(num_steps, name=label(self))
        self.weight, out_unit = make_affine(self, param_type, {"scale": use_scale, "bias": use_bias}, out_unit)
        keep_options(
            self,
            epsilon=epsilon,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
            dtype=dtype,
            unit=unit,
            out_unit=out_unit,
            masked_output=masked_output,
        )

    @classmethod
    def from_normalized_shape(
        cls,
        normalized_shape: int | Sequence[int],
        epsilon: Any = 1e-5,
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
        size = as_size(normalized_shape, name=cls.__name__)
        axes = tuple(range(-len(size), 0))
        use_bias = elementwise_affine and use_bias
        return cls(size, axes, axes, epsilon=epsilon, use_scale=elementwise_affine, use_bias=use_bias, **options)

    @property
    def affine_param(self) -> Any:
        """The state with the learned parameters; None if there are none."""
        return self.weight

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""
        return reduction_over(shape, self.reduction_axes, norm_options(self))

    def update(self, x: Any, *, mask: Any = None) -> Any:
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
            x, reduction_axes=self.reduction_axes, **learned(self, self.weight, x), **call_options(self, x, mask)
        )
