"""The statistics alone, with their units: what a script that needs no norm asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import units
from .._numerics.axes import Axes
from .._numerics.collectives import AxisName
from .._numerics.mean_and_variance import mean_and_variance
from .._numerics.moments import Reduction, deviations, local_count, zero_masked
from .._numerics.plan import plan_for
from .._numerics.statistics import sum_of_parts
from ..units import MaskLike, QuantityLike, Result, Unit
from ._arguments import norm_function
from ._enter import Entry, NormOptions, enter
from ._reduction import on_one_device, reduction_over
from ._standardize import Observed, stays_here


class Statistics(NamedTuple):
    """What :func:`moments` returns: how many valid elements, their mean, their (population) variance."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mean: Result
    var: Result


@norm_function()
def moments(
    x: QuantityLike,
    reduction_axes: Axes = -1,
    *,
    mask: MaskLike | None = None,
    unit: Unit | None = None,
    axis_name: AxisName | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    keepdims: bool = False,
    name: str = "moments",
) -> Statistics:
    r"""Count the valid elements, and take their mean and variance, with their units.

    .. math:: n, \quad \mu = \tfrac1n \sum x, \quad \sigma^2 = \tfrac1n \sum (x - \mu)^2

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    reduction_axes : int or sequence of int
        The axes that the statistics run over.
    mask, unit, axis_name, axis_index_groups, name
        As in every norm: see :mod:`braindnorm.functional`.
    keepdims : bool
        Keep the reduced axes with length 1.

    Returns
    -------
    Statistics
        The count, the mean in the unit of `x` (or in `unit`), and the variance in its square. Where nothing is valid
        all three are 0.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    References
    ----------
    .. [1] Chan, T. F., Golub, G. H. and LeVeque, R. J. (1979). Updating formulae and a pairwise algorithm for computing
       sample variances. Stanford STAN-CS-79-773.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import moments
    >>> count, mean, var = moments(jnp.array([-65., -63., jnp.nan]) * u.mV, mask=[1, 1, 0])
    >>> print(count, mean, var)
    2.0 -64. mV 1. mV^2
    """
    options: NormOptions = {
        "mask": mask, "unit": unit, "axis_name": axis_name, "axis_index_groups": axis_index_groups
    }  # fmt: skip
    entry = enter(x, {}, options)
    reduction = reduction_over(entry.x.shape, reduction_axes, options)
    count, mean, var = _moments_of(entry, reduction)
    if not keepdims:
        count, mean, var = (jnp.squeeze(v, reduction.axes) for v in (count, mean, var))
    return Statistics(count, units.restore(mean, entry.unit), units.restore(var, entry.unit**2))


def _moments_of(entry: Entry, reduction: Reduction) -> Observed:
    """Return the moments of the valid elements, with their gradients."""
    x, valid = entry.x, entry.valid
    if not stays_here(x, reduction):
        moments, _ = deviations(zero_masked(x, valid).astype(entry.dtype), reduction, valid)
        count, mean, var = moments.count, moments.mean, moments.var
    else:
        mask_shape = None if valid is None else valid.shape
        over = on_one_device(reduction, x.shape, entry.constant)
        plan = plan_for(
            x.shape, x.dtype, mask_shape, over, centred=True, compensated=False, dtype=entry.dtype
        ).with_derivatives()
        centre, var = mean_and_variance(plan, x, valid)
        count, mean = local_count(x.shape, valid, plan.reduction, plan.dtype), sum_of_parts(centre)
    return Observed(jnp.broadcast_to(count, mean.shape), mean, var)
