"""Group normalization as a Module."""

from collections.abc import Hashable, Sequence
from typing import Any

import brainstate
from brainstate.nn import init

from .. import functional
from .._numerics.axes import Axes, as_axes, as_size, canonical_axes, single_axis, split_groups
from .._numerics.moments import Reduction
from ..functional._reduction import grouped_reduction
from ._affine import NormParam, check_features, learned, make_affine
from ._local_groups import local_groups
from ._norm import norm_options
from ._per_step import check_num_steps
from ._wiring import call_options, check_name, keep_options, label


class GroupNorm(brainstate.nn.Module):
    r"""Group normalization [1]_ that knows units and masks.

    .. math:: y = \gamma \, \frac{x - \mu_g}{\sqrt{\sigma_g^2 + \varepsilon}} + \beta

    with the mean and the variance of the valid elements of each group of channels.

    Parameters
    ----------
    in_size : int or sequence of int
        The size of the input without its batch axes.
    feature_axis : int
        The axis of `in_size` that holds the channels: ``GroupNorm((C, H, W), feature_axis=0)`` is channels-first.
    num_groups, group_size : int or None
        How many groups, or how many channels in each: one of them (a `group_size` alone is enough).
    reduction_axes : int or sequence of int, optional
        The axes of the input that the statistics run over besides the channels of the group, which always count. With
        None: every axis but the leading one, which is the batch, unless it holds the channels. Under ``vmap`` and for
        (time, batch, ...) data write negative axes.
    **options
        `epsilon`, `dtype`, `use_bias`, `use_scale`, `bias_init`, `scale_init`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `param_type`, `unit`, `out_unit`, `masked_output`, `num_steps`, `name`:
        see :mod:`braindnorm.layers`.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    See Also
    --------
    LayerNorm : one group of all channels.
    braindnorm.functional.group_norm : the same as a function.

    References
    ----------
    .. [1] Wu, Y. and He, K. (2018). Group normalization. ECCV, 3-19. arXiv:1803.08494.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm import GroupNorm
    >>> GroupNorm(4, num_groups=2)(jnp.array([[1., 3., 10., 30.]])).round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    centred = True
    __array_ufunc__ = None  # so that numpy hands `array >> layer` over whole, and not element by element

    def __init__(
        self,
        in_size: int | Sequence[int],
        feature_axis: Any = -1,
        num_groups: int | None = 32,
        group_size: int | None = None,
        *,
        epsilon: Any = 1e-6,
        dtype: Any = None,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = init.ZeroInit(),  # noqa: B008  (brainstate's default, without state)
        scale_init: Any = init.Constant(1.0),  # noqa: B008
        reduction_axes: Axes | None = None,
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
        if reduction_axes is not None:
            reduction_axes = as_axes(reduction_axes, option="reduction_axes", name=label(self))
        self.reduction_axes = reduction_axes
        self.feature_axes = canonical_axes(feature_axis, len(size), option="feature_axis", name=label(self))
        channel_axis = single_axis(self.feature_axes, name=label(self))
        self.feature_axis = channel_axis - len(size)
        self.num_groups, self.group_size = split_groups(size[channel_axis], num_groups, group_size, name=label(self))
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

    @property
    def affine_param(self) -> Any:
        """The state with the learned parameters; None if there are none."""
        return self.weight

    def reduction(self, shape: Sequence[int]) -> Reduction:
        """Return what the statistics of an input of this shape run over."""
        groups = (None, self.group_size)
        return grouped_reduction(shape, self.reduction_axes, self.feature_axis, groups, norm_options(self))

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
        return functional.group_norm(
            x,
            local_groups(self, x),
            feature_axis=self.feature_axis,
            reduction_axes=self.reduction_axes,
            **learned(self, self.weight, x),
            **call_options(self, x, mask),
        )
