"""Group normalization."""

from __future__ import annotations

from typing import SupportsIndex, Unpack

from .._numerics.axes import DEFAULT_GROUPS, Axes
from ..units import QuantityLike, Result
from ._arguments import norm_function
from ._eager import compiled_when_called
from ._enter import OPTIONS, NormOptions, enter
from ._leave import leave
from ._reduction import grouped_reduction
from ._standardize import is_zeroed, standardization, standardize


@norm_function(OPTIONS)
@compiled_when_called
def group_norm(
    x: QuantityLike,
    num_groups: SupportsIndex | None = DEFAULT_GROUPS,
    scale: QuantityLike | None = None,
    bias: QuantityLike | None = None,
    *,
    group_size: SupportsIndex | None = None,
    feature_axis: int = -1,
    reduction_axes: Axes | None = None,
    **options: Unpack[NormOptions],
) -> Result:
    r"""Group normalization [1]_: the channels are split into groups, each with a mean and a variance of its own.

    .. math:: y = \gamma \, \frac{x - \mu_g}{\sqrt{\sigma_g^2 + \varepsilon}} + \beta

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    num_groups, group_size : int or None
        How many groups, or how many channels in each: one of them, and None for the other (a group_size alone is
        enough).
    scale, bias : array_like or Quantity, optional
        :math:`\gamma` and :math:`\beta`, broadcast to `x` from the right. Both are in the output's unit.
    feature_axis : int
        The axis of `x` that holds the channels.
    reduction_axes : int or sequence of int, optional
        The axes that the statistics run over besides the channels of the group, which always count. With None: every
        axis but the leading one, which is the batch, unless it holds the channels.
    **options
        What every norm takes: `epsilon`, `mask`, `masked_output`, `unit`, `out_unit`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `stop_statistics_gradient`, `dtype`, `affine`, `name`. See :mod:`braindnorm.functional`.

    Returns
    -------
    Array or Quantity
        Of the shape of `x`, in `out_unit`.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    References
    ----------
    .. [1] Wu, Y. and He, K. (2018). Group normalization. ECCV, 3-19. arXiv:1803.08494.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm.functional import group_norm
    >>> group_norm(jnp.array([[1., 3., 10., 30.]]), num_groups=2).round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    entry = enter(x, {"scale": scale, "bias": bias}, options)
    groups = (num_groups, group_size)
    reduction = grouped_reduction(entry.x.shape, reduction_axes, feature_axis, groups, options)
    spec = standardization(entry, reduction, options)
    return leave(standardize(entry, spec), entry, zeroed=is_zeroed(entry, spec))
