"""Root mean square normalization as a Module."""

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


class RMSNorm(brainstate.nn.Module):
    r"""Root mean square normalization [1]_ that knows units and masks: no centring, no bias.

    .. math:: y = \gamma \, \frac{x}{\sqrt{\tfrac1n \sum x^2 + \varepsilon}}

    with the sum over the n valid elements along `reduction_axes`.

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the input without its batch axes.
    reduction_axes : int or sequence of int
        The axes of the input that the mean square runs over. Write negative ones: they count from the right, whatever
        batch or time axes come before, and under ``vmap``. Positive ones index the input as it comes.
    feature_axes : int or sequence of int
        The axes of `in_size` along which the scale varies.
    **options
        `epsilon`, `use_scale`, `scale_init`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `dtype`, `param_type`, `unit`, `out_unit`, `masked_output`, `num_steps`, `name`:
        see :mod:`braindnorm.layers`.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    See Also
    --------
    LayerNorm : with centring and bias.
    braindnorm.functional.rms_norm : the same as a function.

    References
    ----------
    .. [1] Zhang, B. and Sennrich, R. (2019). Root mean square layer normalization. NeurIPS 32. arXiv:1910.07467.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm import RMSNorm
    >>> RMSNorm(2, unit=u.nA, out_unit=u.UNITLESS)(jnp.array([2000., -2000.]) * u.pA).round(3)
    Array([ 1., -1.], dtype=float32)
    """

    centred = False
    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element

    def __init__(
        self,
        in_size: int | Sequence[int],
        *,
        epsilon: Any = 1e-6,
        dtype: Any = None,
        use_scale: bool = True,
        scale_init: Any = init.Constant(1.0),  # noqa: B008  (brainstate's default, without state)
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        axis_name: Hashable | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        use_fast_variance: bool = True,
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
        self.use_scale, self.scale_init = use_scale, scale_init
        self.num_steps = check_num_steps(num_steps, name=label(self))
        self.scale, out_unit = make_affine(self, param_type, {"scale": use_scale}, out_unit)
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
        **options: Any,
    ) -> Self:
        """Build the layer as torch and BrainPy spell it: the trailing axes, with an elementwise scale.

        Parameters
        ----------
        normalized_shape : int or sequence of int
            The lengths of the trailing axes that are normalized.
        epsilon : float or Quantity
            As in the constructor.
        elementwise_affine : bool
            Whether to learn a scale for every element of `normalized_shape`.
        **options
            The other options of the constructor.

        Examples
        --------
        >>> from braindnorm import RMSNorm
        >>> RMSNorm.from_normalized_shape((4, 8)).scale.value["scale"].shape
        (4, 8)
        """
        size = as_size(normalized_shape, name=cls.__name__)
        axes = tuple(range(-len(size), 0))
        return cls(
            size, epsilon=epsilon, use_scale=elementwise_affine, reduction_axes=axes, feature_axes=axes, **options
        )

    @property
    def affine_param(self) -> Any:
        """The state with the learned parameters; None if there are none."""
        return self.scale

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
        check_features(self, x, self.scale)
        return functional.rms_norm(
            x, reduction_axes=self.reduction_axes, **learned(self, self.scale, x), **call_options(self, x, mask)
        )
