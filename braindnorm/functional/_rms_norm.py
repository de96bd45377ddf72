"""Root mean square normalization."""

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
def rms_norm(
    x: QuantityLike,
    scale: QuantityLike | None = None,
    *,
    reduction_axes: Axes = -1,
    **options: Unpack[NormOptions],
) -> Result:
    r"""Root mean square normalization [1]_: no centring, no bias.

    .. math:: y = \gamma \, \frac{x}{\sqrt{\tfrac1n \sum x^2 + \varepsilon}}

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    scale : array_like or Quantity, optional
        :math:`\gamma`, broadcast to `x` from the right. It is in the output's unit.
    reduction_axes : int or sequence of int
        The axes that the mean square runs over.
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
    .. [1] Zhang, B. and Sennrich, R. (2019). Root mean square layer normalization. NeurIPS 32. arXiv:1910.07467.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import rms_norm
    >>> rms_norm(jnp.array([2., -2.]) * u.nA, out_unit=u.UNITLESS).round(3)
    Array([ 1., -1.], dtype=float32)
    """
    entry = enter(x, {"scale": scale, "bias": None}, options)
    reduction = reduction_over(entry.x.shape, reduction_axes, options)
    spec = standardization(entry, reduction, options, centred=False)
    return leave(standardize(entry, spec), entry, zeroed=is_zeroed(entry, spec))
