"""Layer normalization."""

from __future__ import annotations

from typing import Unpack

from .._numerics.axes import Axes
from ..units import QuantityLike, Result
from ._arguments import norm_function
from ._eager import compiled_when_called
from ._enter import OPTIONS, NormOptions, enter
from ._leave import leave
from ._reduction import reduction_over
from ._standardize import is_zeroed, standardization, standardize


@norm_function(OPTIONS)
@compiled_when_called
def layer_norm(
    x: QuantityLike,
    scale: QuantityLike | None = None,
    bias: QuantityLike | None = None,
    *,
    reduction_axes: Axes = -1,
    **options: Unpack[NormOptions],
) -> Result:
    r"""Layer normalization [1]_.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    with the mean :math:`\mu` and the variance :math:`\sigma^2` of the valid elements along `reduction_axes`.

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    scale, bias : array_like or Quantity, optional
        :math:`\gamma` and :math:`\beta`, broadcast to `x` from the right. Both are in the output's unit.
    reduction_axes : int or sequence of int
        The axes that the statistics run over.
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
    .. [1] Ba, J. L., Kiros, J. R. and Hinton, G. E. (2016). Layer normalization. arXiv:1607.06450.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import layer_norm
    >>> layer_norm(jnp.array([-65., -64., -63.]) * u.mV, out_unit=u.UNITLESS).round(3)
    Array([-1.225,  0.   ,  1.225], dtype=float32)
    """
    entry = enter(x, {"scale": scale, "bias": bias}, options)
    reduction = reduction_over(entry.x.shape, reduction_axes, options)
    spec = standardization(entry, reduction, options)
    return leave(standardize(entry, spec), entry, zeroed=is_zeroed(entry, spec))
