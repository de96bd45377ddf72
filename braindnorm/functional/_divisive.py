"""Divisive normalization: a drive divided by a constant plus the pooled activity of its neighbours."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax

from .._numerics.axes import Axes
from .._numerics.collectives import AxisName
from .._numerics.pools import respond
from ..units import DtypeLike, MaskLike, QuantityLike, Result, Unit
from ._arguments import norm_function
from ._drive import Pool, enter_drive
from ._enter import MaskedOutput
from ._leave import leave

# an eager call is one program, not a hundred; inside another program it leaves no trace
_compiled = functools.partial(jax.jit, static_argnums=(0, 1), inline=True)(respond)


@norm_function()
def divisive_norm(
    x: QuantityLike,
    sigma: QuantityLike = 1.0,
    gamma: QuantityLike = 1.0,
    *,
    exponent: float = 2.0,
    pool_axes: Axes = -1,
    pool: Pool = "mean",
    rectify: bool = True,
    stop_statistics_gradient: bool = False,
    mask: MaskLike | None = None,
    masked_output: MaskedOutput = "zero",
    unit: Unit | None = None,
    out_unit: Unit | None = None,
    axis_name: AxisName | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    dtype: DtypeLike | None = None,
    name: str = "divisive_norm",
) -> Result:
    r"""Divisive normalization [1]_, a canonical neural computation.

    .. math:: R_i = \gamma \, \frac{D_i^n}{\sigma^n + \operatorname{pool}_j D_j^n}, \quad
       \operatorname{pool}_j D_j^n = \tfrac1N \sum_j D_j^n, \; \sum_j D_j^n \; \text{or} \; \sum_j w_{ij} D_j^n

    Parameters
    ----------
    x : array_like or Quantity
        The drive D, of any shape. What is negative counts as 0, unless `rectify` is False.
    sigma : array_like or Quantity
        The semi-saturation constant, 0 or larger, in the unit of the drive (a plain number is in that unit), broadcast
        from the right. What a compiled function learns to be negative only when it runs makes the response NaN.
    gamma : array_like or Quantity
        The gain, in the output's unit, broadcast from the right.
    exponent : float
        n, above 0 and at most 100. Below 1 the slope grows without bound towards a drive of 0; at 0 it is taken as 0.
    pool_axes : int or sequence of int
        The axes of `x` that are pooled.
    pool : {'mean', 'sum'} or array_like of shape (N, N)
        The pool of element i: the mean or the sum of the valid elements, or the sum weighted by row i of a matrix that
        is nowhere negative. A matrix pools one axis.
    rectify : bool
        True takes a negative drive as 0 (half-wave rectification [2]_). False responds to its magnitude, with its sign:
        :math:`\operatorname{sign}(D) |D|^n` over :math:`\sigma^n + \operatorname{pool} |D|^n`.
    stop_statistics_gradient : bool
        Whether the drive of the pool is a constant to derivatives, so that each element has one of its own:
        :math:`\dot R_i = \gamma n D_i^{n-1} \dot D_i / (\sigma^n + \operatorname{pool}_j D_j^n)`. Values are the same,
        and sigma, gamma and a matrix of weights keep their derivatives.
    axis_name, axis_index_groups
        Mapped axes that are pooled too. With a matrix: as long as the local axis, it weights the elements of every
        device alike, and the devices are added; as long as that axis of all devices (of the group) together, it has a
        row and a column for each of their elements, in the order of the devices.
    mask, masked_output, unit, out_unit, dtype, name
        As in every norm: see :mod:`braindnorm.functional`. What is masked leaves the pool; with 'normalize' it responds
        to the pool of the valid ones. Where nothing is pooled, :math:`R = \gamma D^n / \sigma^n`.

    Returns
    -------
    Array or Quantity
        R, of the shape of `x`, in `out_unit`. It is 0 where the whole denominator is. A drive that is NaN or infinite
        makes all of its pools NaN, and a sigma the responses that it divides.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    Notes
    -----
    Each element has a scale of its own, by which drive, sigma and pool are divided before the power: so no :math:`D^n`
    overflows, and none is lost beside a much stronger one that is not in its pool (with a matrix: down to 1e-24 of the
    strongest in float32, and weights up to 1e10). With :math:`n = 2` and the mean, R is the square of
    :func:`~braindnorm.functional.rms_norm` with epsilon = sigma.

    References
    ----------
    .. [1] Carandini, M. and Heeger, D. J. (2012). Normalization as a canonical neural computation. Nat. Rev. Neurosci.
       13, 51-62. doi:10.1038/nrn3136
    .. [2] Heeger, D. J. (1992). Normalization of cell responses in cat striate cortex. Vis. Neurosci. 9, 181-197.
       doi:10.1017/S0952523800009640

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import divisive_norm
    >>> divisive_norm(jnp.array([10., 30.]) * u.Hz, sigma=20. * u.Hz, gamma=14. * u.Hz, pool="sum").round(1)
    Quantity([1. 9.], "Hz")
    """
    drive = enter_drive(
        x, sigma, gamma, exponent=exponent, pool_axes=pool_axes, pool=pool, rectify=rectify, mask=mask, unit=unit,
        masked_output=masked_output, out_unit=out_unit, axis_name=axis_name, axis_index_groups=axis_index_groups,
        dtype=dtype, stop_statistics_gradient=stop_statistics_gradient,
    )  # fmt: skip
    way, seen = (_compiled, drive.entry.x) if drive.reduction.axis_name is None else (respond, drive.x)
    y = way(drive.reduction, drive.response, drive.x, seen, drive.sigma, drive.gamma, drive.entry.valid, drive.weights)
    return leave(y, drive.entry)
