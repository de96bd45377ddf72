r"""The batch norms of deep spiking networks under the names of their papers: each is a BatchNorm with options set.

What differs is whose statistics they are, and which parameters a time step has of its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from brainstate.nn import init

from .. import units
from ..errors import OptionError, UnitError, named
from ..units import QuantityLike, Unit
from ._per_step import steps_as_options
from .batch_norm import BatchNorm
from .over_time import OverTime

__all__ = ["bntt", "tab", "tdbn", "tebn"]


@named("tdbn")
def tdbn(
    in_size: int | Sequence[int],
    threshold: QuantityLike,
    *,
    rest: QuantityLike | None = None,
    alpha: float = 1.0,
    **options: Any,
) -> BatchNorm:
    r"""Threshold-dependent batch normalization, tdBN [1]_: the scale begins at the way from rest to threshold.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta, \qquad
       \gamma_0 = \alpha \, (V_{th} - V_{rest})

    with the statistics of each channel over time, batch and space. Call it on a whole sequence.

    Parameters
    ----------
    in_size : int or sequence of int
        As in :class:`BatchNorm`.
    threshold : float or Quantity
        :math:`V_{th}`. As a quantity it sets `out_unit`.
    rest : float or Quantity, optional
        :math:`V_{rest}`, 0 by default, as in the paper. A model in mV needs it.
    alpha : float
        :math:`\alpha`: 1, and 1/sqrt(2) where two branches of a residual network are added.
    **options
        The other options of :class:`BatchNorm`.

    Returns
    -------
    BatchNorm
        The layer.

    Raises
    ------
    UnitError
        If threshold and rest are of different dimensions.
    OptionError
        If `alpha` is not a finite number, there is a `scale_initializer` besides, or `affine` is False.

    References
    ----------
    .. [1] Zheng, H., Wu, Y., Deng, L., Hu, Y. and Li, G. (2021). Going deeper with directly-trained larger spiking
       neural networks. AAAI 35, 11062-11070. arXiv:2011.05280.

    Examples
    --------
    >>> import brainunit as u
    >>> from braindnorm import tdbn
    >>> print(tdbn(2, -50. * u.mV, rest=-65. * u.mV, alpha=0.5, unit=u.nA).scale_quantity)
    [7.5 7.5] mV
    """
    if "scale_initializer" in options:
        raise OptionError(
            "the scale begins at alpha * (threshold - rest), so leave out scale_initializer; or write"
            " BatchNorm(in_size, scale_initializer=...)."
        )
    if options.get("affine", True) is False:
        raise OptionError(
            "affine=False leaves out the scale, which the threshold sets. Leave it out; or write"
            " BatchNorm(in_size, affine=False)."
        )
    number = isinstance(alpha, int | float | np.number) and not isinstance(alpha, bool)
    if not number or not np.isfinite(alpha):
        raise OptionError(f"alpha must be a finite number; got {alpha!r}.")
    way, unit = _way(threshold, rest)
    return BatchNorm(in_size, scale_initializer=init.Constant(units.restore(alpha * way, unit)), **options)


def _way(threshold: QuantityLike, rest: QuantityLike | None) -> tuple[np.ndarray[Any, Any], Unit]:
    """Return the way from rest to threshold, in the unit of the threshold.

    Raises
    ------
    UnitError
        If they are of different dimensions.
    """
    high, unit = units.strip(threshold, None, what="the threshold")
    if rest is None:
        return np.asarray(high), unit
    low, rest_unit = units.strip(rest, None, what="the rest")
    if not rest_unit.has_same_dim(unit):
        plain = {"rest": (rest, rest_unit), "threshold": (threshold, unit)}
        without = [f"{key}={value} * brainunit.mV" for key, (value, its) in plain.items() if its.is_unitless]
        cure = f"write {without[0]}, or give" if without else "give both in one unit, or"
        raise UnitError(
            f"rest is in {rest_unit}, but the threshold is in {unit}. Both are potentials: {cure} both as plain"
            " numbers."
        )
    return np.asarray(high) - np.asarray(units.convert(low, rest_unit, unit)), unit


@named("tebn")
def tebn(in_size: int | Sequence[int], num_steps: int, **options: Any) -> BatchNorm:
    r"""Temporal effective batch normalization, TEBN [1]_: a gain of each time step behind a batch norm.

    .. math:: y_t = p_t \left(\gamma \, \frac{x_t - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta\right)

    with the statistics of each channel over time, batch and space, and :math:`p` from 1. Call it on a whole sequence,
    time first, with ``brainstate.environ.context(i=jnp.arange(T))``; in evaluation also step by step, with the step
    `i`.

    Parameters
    ----------
    in_size : int or sequence of int
        As in :class:`BatchNorm`.
    num_steps : int
        T, the number of time steps.
    **options
        The other options of :class:`BatchNorm`.

    Returns
    -------
    BatchNorm
        The layer; :math:`p` is its ``gain``, of shape (T,).

    Raises
    ------
    OptionError
        If `num_steps` is not a positive integer, or an option has no meaning.

    References
    ----------
    .. [1] Duan, C., Ding, J., Chen, S., Yu, Z. and Huang, T. (2022). Temporal effective batch normalization in spiking
       neural networks. NeurIPS 35.

    Examples
    --------
    >>> from braindnorm import tebn
    >>> tebn(2, num_steps=3).gain.value
    Array([1., 1., 1.], dtype=float32)
    """
    return BatchNorm(in_size, **steps_as_options(num_steps, options, "gain_steps"), **options)


@named("bntt")
def bntt(in_size: int | Sequence[int], num_steps: int, **options: Any) -> BatchNorm:
    r"""Batch normalization through time, BNTT [1]_: a batch norm of each time step, without a bias.

    .. math:: y_t = \gamma_t \, \frac{x_t - \mu_t}{\sqrt{\sigma_t^2 + \varepsilon}}

    with the statistics of each channel in step t over batch and space, and running statistics of each step. Call it on
    a step, with its number `i` in the environment, or on a whole sequence, time first, with
    ``brainstate.environ.context(i=jnp.arange(T))``: the numbers are the same.

    Parameters
    ----------
    in_size : int or sequence of int
        As in :class:`BatchNorm`.
    num_steps : int
        T, the number of time steps.
    **options
        The other options of :class:`BatchNorm`.

    Returns
    -------
    BatchNorm
        The layer. Its scale and its running statistics have a leading axis of T steps.

    Raises
    ------
    OptionError
        If `num_steps` is not a positive integer, or an option has no meaning.

    References
    ----------
    .. [1] Kim, Y. and Panda, P. (2021). Revisiting batch normalization for training low-latency deep spiking neural
       networks from scratch. Front. Neurosci. 15, 773954.

    Examples
    --------
    >>> from braindnorm import bntt
    >>> bntt(2, num_steps=3).running_mean.value.shape
    (3, 2)
    """
    steps = steps_as_options(num_steps, options, "param_steps", "running_steps")
    return BatchNorm(in_size, **steps | {"bias_initializer": None} | options)


@named("tab")
def tab(in_size: int | Sequence[int], num_steps: int, **options: Any) -> OverTime:
    r"""Temporal accumulated batch normalization, TAB [1]_: each time step by the statistics of all steps up to it.

    .. math:: y_t = p_t^2 \left(\gamma_t \, \frac{x_t - \mu_{\le t}}{\sqrt{\sigma^2_{\le t} + \varepsilon}}
       + \beta_t\right)

    with the statistics of each channel over the steps 1 to t, batch and space; with running statistics, scale and bias
    of each step, and :math:`p` from 1. Make the memory with ``init_state(batch_size)``, call it step by step, with the
    step `i` in the environment, or by ``update_sequence``, and then ``end_sequence()``.

    Parameters
    ----------
    in_size : int or sequence of int
        As in :class:`BatchNorm`.
    num_steps : int
        T, the number of time steps.
    **options
        The other options of :class:`BatchNorm`.

    Returns
    -------
    OverTime
        The layer. The :class:`BatchNorm` with its parameters is its ``norm``.

    Raises
    ------
    OptionError
        If `num_steps` is not a positive integer, or an option has no meaning.

    References
    ----------
    .. [1] Jiang, H., Zoonekynd, V., De Masi, G., Gu, B. and Xiong, H. (2024). TAB: temporal accumulated batch
       normalization in spiking neural networks. ICLR.

    Examples
    --------
    >>> from braindnorm import tab
    >>> norm = tab(2, num_steps=3).norm
    >>> norm.gain.value.shape, norm.running_mean.value.shape
    ((3,), (3, 2))
    """
    steps = steps_as_options(num_steps, options, "param_steps", "running_steps", "gain_steps")
    return OverTime(BatchNorm(in_size, **steps | {"gain_power": 2} | options), normalize_by="past")
