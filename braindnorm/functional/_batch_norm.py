"""Batch normalization: statistics of each channel over everything else, and statistics that are kept."""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import Axes, canonical_axes, fit_parameter
from .._numerics.running import moved, whole_axis
from ..errors import OptionError, UnitError, named
from ..units import Mantissa, QuantityLike, Result
from ._arguments import norm_function
from ._enter import OPTIONS, Entry, NormOptions, enter
from ._leave import leave
from ._reduction import reduction_over
from ._standardize import Observed, is_zeroed, standardization, standardize_and_keep, standardize_by
from ._statistics import Statistics


@norm_function(OPTIONS)
def batch_norm(
    x: QuantityLike,
    scale: QuantityLike | None = None,
    bias: QuantityLike | None = None,
    *,
    running: Statistics | None = None,
    feature_axis: Axes = -1,
    **options: Unpack[NormOptions],
) -> tuple[Result, Statistics]:
    r"""Batch normalization [1]_, by the statistics of this call or by given ones.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    with the mean :math:`\mu` and the variance :math:`\sigma^2` of the valid elements of each channel, over all other
    axes (time, batch, space); or with the :math:`\mu` and :math:`\sigma^2` of `running`, element by element.

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    scale, bias : array_like or Quantity, optional
        :math:`\gamma` and :math:`\beta`, broadcast to `x` from the right. Both are in the output's unit.
    running : Statistics, optional
        The mean, in the input's unit or one that converts to it, and the variance, in its square, each broadcast to `x`
        from the right. They are taken as constants of the input: nothing is summed, and no `axis_name` has to be bound.
    feature_axis : int or sequence of int
        The axes that are not summed over: the channels. Write negative ones, which count from the right.
    **options
        What every norm takes: `epsilon`, `mask`, `masked_output`, `unit`, `out_unit`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `stop_statistics_gradient`, `dtype`, `affine`, `name`. See :mod:`braindnorm.functional`.

    Returns
    -------
    tuple
        The result, of the shape of `x`, in `out_unit`; and the :class:`Statistics` to keep, without a gradient, shaped
        to broadcast to `x` from the right: the count, the mean in the unit of `x` (or in `unit`), and the variance in
        its square. With `axis_index_groups` those are of all groups together. With `running`, `running` itself.

    Raises
    ------
    NormError
        See :mod:`braindnorm.functional`.

    See Also
    --------
    update_running : what to do with the statistics.

    References
    ----------
    .. [1] Ioffe, S. and Szegedy, C. (2015). Batch normalization: accelerating deep network training by reducing
       internal covariate shift. ICML 32. arXiv:1502.03167.

    Examples
    --------
    >>> import brainunit as u, jax.numpy as jnp
    >>> from braindnorm.functional import batch_norm
    >>> v = jnp.array([[-65., 1.], [-63., 3.]]) * u.mV
    >>> y, statistics = batch_norm(v, out_unit=u.UNITLESS)
    >>> print(y.round(3))
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(statistics.mean, statistics.var)
    [-64.   2.] mV [1. 1.] mV^2
    >>> batch_norm(v[0], running=statistics, out_unit=u.UNITLESS)[0].round(3)
    Array([-1., -1.], dtype=float32)
    """
    entry = enter(x, {"scale": scale, "bias": bias}, options)
    ndim = entry.x.ndim
    kept = canonical_axes(feature_axis, ndim, option="feature_axis")
    reduction = reduction_over(entry.x.shape, [axis for axis in range(ndim) if axis not in kept], options)
    spec = standardization(entry, reduction, options)
    if running is not None:
        return leave(standardize_by(entry, spec, *known(running, entry)), entry), running
    y, observed = standardize_and_keep(entry, spec)
    observed = Observed(*whole_axis(*observed, reduction))
    count, mean, var = (v.reshape(v.shape[min(kept, default=ndim) :]) for v in observed)
    statistics = Statistics(count, units.restore(mean, entry.unit), units.restore(var, entry.unit**2))
    return leave(y, entry, zeroed=is_zeroed(entry, spec)), statistics


@named("update_running")
def update_running(
    running: Statistics, statistics: Statistics, momentum: float | jax.Array = 0.99, unbiased: bool = False
) -> Statistics:
    r"""Return running statistics after one update by the statistics of a call.

    .. math:: \mu_r \leftarrow m \mu_r + (1 - m)\, \mu, \qquad \sigma^2_r \leftarrow m \sigma^2_r + (1 - m)\, \sigma^2

    Parameters
    ----------
    running : Statistics
        What was kept so far: the count of elements seen, their mean and their variance. Shape, unit and dtype are those
        of the result.
    statistics : Statistics
        Those of a call of :func:`batch_norm` or :func:`moments`.
    momentum : float
        :math:`m`, the weight of what was kept, from 0 to 1. torch's momentum is 1 - m.
    unbiased : bool
        Whether the variance of a call is taken as :math:`m_2 / (n - 1)`, as torch does; otherwise as :math:`m_2 / n`.

    Returns
    -------
    Statistics
        Where the call counted nothing, `running` as it was, bit for bit. One element has the variance 0; if `unbiased`
        it has none, and only the mean is updated. What is not finite is kept like any other number. A step too small
        for the dtype is taken as one digit, so that the mean arrives also at -65 mV with a spread of 0.01 mV.

    Raises
    ------
    UnitError
        If the two are in units that do not convert.
    OptionError
        If the momentum is not between 0 and 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from braindnorm.functional import Statistics, update_running
    >>> update_running(Statistics(0., jnp.zeros(1), jnp.ones(1)), Statistics(4., jnp.ones(1), jnp.ones(1)), 0.75).mean
    Array([0.25], dtype=float32)
    """
    momentum = check_momentum(momentum)
    kept_mean, unit = units.strip(running.mean, None)
    kept_var = in_unit(running.var, unit**2, "the running variance")
    mean = in_unit(statistics.mean, unit, "the mean")
    var = in_unit(statistics.var, unit**2, "the variance")
    kept_mean, kept_var = jnp.asarray(kept_mean), jnp.asarray(kept_var)
    count, mean, var = (jnp.asarray(v).reshape(kept_mean.shape) for v in (statistics.count, mean, var))
    if unbiased:
        var = var * (count / jnp.maximum(count - 1, 1))
    mean = moved(kept_mean, mean, momentum, count > 0)
    var = moved(kept_var, var, momentum, count > (1 if unbiased else 0))
    return Statistics(running.count + count, units.restore(mean, unit), units.restore(var, unit**2))


def check_momentum(momentum: object) -> float | jax.Array:
    """Return a momentum that is a number from 0 to 1, or traced.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if isinstance(momentum, jax.core.Tracer):
        return momentum
    number = None if isinstance(momentum, bool | np.bool_ | str) else momentum
    try:
        value = float(number)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise OptionError(
            f"momentum must be a number from 0 to 1, the weight of what was kept; got {momentum!r}. That of"
            " torch is 1 minus this one."
        )
    return value


def in_unit(value: QuantityLike, unit: units.Unit, what: str) -> Mantissa:
    """Return the mantissa of a statistic in a unit.

    Raises
    ------
    UnitError
        If its own does not convert.
    """
    mantissa, source = units.strip(value, None, what=what)
    if not source.has_same_dim(unit):
        raise UnitError(
            f"{what} is in {source}, where {unit} is expected. Statistics go with data of the same dimension:"
            " the mean in the data's unit, the variance in its square."
        )
    return units.convert(mantissa, source, unit)


def known(running: Statistics, entry: Entry) -> tuple[jax.Array, jax.Array]:
    """Return a given mean and variance, as they broadcast to the input."""
    mean = in_unit(running.mean, entry.unit, "the running mean")
    var = in_unit(running.var, entry.unit**2, "the running variance")
    shape = entry.x.shape
    return (
        fit_parameter(mean, shape, option="the running mean"),
        fit_parameter(var, shape, option="the running variance"),
    )
