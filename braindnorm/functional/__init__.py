r"""The norms as pure, unit-aware functions: what the layers of :mod:`braindnorm.layers` call.

A call goes one way: unit off, mask aligned, moments, standardized z, scale and bias, unit on.

Notes
-----
**Options that every norm shares.**

epsilon : float or Quantity
    :math:`\varepsilon`, added to the variance. A plain number counts in the reference unit squared; a quantity of the
    input's dimension squared is a variance; one of the input's dimension is a standard deviation (a noise floor) and is
    squared. For an input in mV/V, which has no dimension, it must be in exactly that unit squared, or in that unit.
mask : array_like of bool or int, optional
    True or non-zero where the input is valid, broadcast to it from the right (:mod:`braindnorm.masks`). What is masked
    changes nothing elsewhere, whatever it holds. A group with nothing valid gives z = 0.
masked_output : {'zero', 'input', 'normalize'}
    What comes out at masked positions: 0; the input, where the output's unit is of the input's dimension; or the input
    normalized with the statistics of the valid ones (what is not finite counts as 0).
unit : Unit, optional
    The reference unit: input is converted to it, and anything of another dimension is refused, a plain array too. With
    None it is the unit that arrives.
out_unit : Unit, optional
    The unit of the output, in which scale and bias count. None restores the reference unit (or takes the unit of a
    scale or bias that is a quantity); ``brainunit.UNITLESS`` gives a plain array.
axis_name : hashable or tuple of hashable, optional
    Mapped axes of ``vmap``, ``pmap`` or ``shard_map`` over which the statistics run too.
axis_index_groups : sequence of sequence of int, optional
    Indices along `axis_name` that share statistics: each index once, groups even or uneven.
use_fast_variance : bool
    True is right to the rounding of a careful two-pass (2e-3 at -65 mV with a spread of 0.01 mV in float32). False uses
    a compensated mean (1e-5 there), and gives a constant shift a tangent of exactly 0.
dtype : dtype, optional
    The dtype of the result. None promotes the input with scale and bias; integers and booleans become float. Statistics
    are at least float32.
affine : ParamState, optional
    What applies scale and bias in their place: an object whose ``execute(z)`` returns the result, of the size of z, and
    whose ``value`` holds the parameters (the result's dtype is promoted with theirs).
name : str
    What errors call the norm.

**Errors that every norm shares**: :class:`~braindnorm.errors.UnitError`, :class:`~braindnorm.errors.MaskError`,
:class:`~braindnorm.errors.AxisError`, :class:`~braindnorm.errors.AxisNameError`,
:class:`~braindnorm.errors.DtypeError` and :class:`~braindnorm.errors.OptionError`. Each message says what was asked,
what came, and what to do.
"""

from typing import Any, Unpack

from .._numerics.axes import DEFAULT_GROUPS, Axes
from ._arguments import says_what_to_write
from ._divisive import divisive_norm
from ._normalize import NormOptions, normalize
from ._statistics import Statistics, moments

_OPTIONS = NormOptions.__annotations__.keys()

__all__ = ["Statistics", "divisive_norm", "group_norm", "layer_norm", "moments", "rms_norm"]


@says_what_to_write(_OPTIONS, "A mask is given as mask=mask")
def layer_norm(
    x: Any, scale: Any = None, bias: Any = None, *, reduction_axes: Axes = -1, **options: Unpack[NormOptions]
) -> Any:
    r"""Layer normalization [1]_.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    with the mean :math:`\mu` and the variance :math:`\sigma^2` of the valid elements along `reduction_axes`.

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    scale, bias : array_like or Quantity, optional
        :math:`\gamma` and :math:`\beta`, broadcast to `x` from the right. They count in the output's unit.
    reduction_axes : int or sequence of int
        The axes that the statistics run over.
    **options
        What every norm takes: `epsilon`, `mask`, `masked_output`, `unit`, `out_unit`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `dtype`, `affine`, `name`. See :mod:`braindnorm.functional`.

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
    options.setdefault("name", "layer_norm")
    return normalize(x, scale, bias, reduction_axes=reduction_axes, **options)


@says_what_to_write(_OPTIONS, "A mask is given as mask=mask")
def rms_norm(x: Any, scale: Any = None, *, reduction_axes: Axes = -1, **options: Unpack[NormOptions]) -> Any:
    r"""Root mean square normalization [1]_: no centring, no bias.

    .. math:: y = \gamma \, \frac{x}{\sqrt{\tfrac1n \sum x^2 + \varepsilon}}

    Parameters
    ----------
    x : array_like or Quantity
        The input, of any shape.
    scale : array_like or Quantity, optional
        :math:`\gamma`, broadcast to `x` from the right. It counts in the output's unit.
    reduction_axes : int or sequence of int
        The axes that the mean square runs over.
    **options
        What every norm takes: `epsilon`, `mask`, `masked_output`, `unit`, `out_unit`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `dtype`, `affine`, `name`. See :mod:`braindnorm.functional`.

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
    options.setdefault("name", "rms_norm")
    return normalize(x, scale, None, reduction_axes=reduction_axes, centred=False, **options)


@says_what_to_write(_OPTIONS, "A mask is given as mask=mask")
def group_norm(
    x: Any,
    num_groups: int | None = DEFAULT_GROUPS,
    scale: Any = None,
    bias: Any = None,
    *,
    group_size: int | None = None,
    feature_axis: int = -1,
    reduction_axes: Axes | None = None,
    **options: Unpack[NormOptions],
) -> Any:
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
        :math:`\gamma` and :math:`\beta`, broadcast to `x` from the right. They count in the output's unit.
    feature_axis : int
        The axis of `x` that holds the channels.
    reduction_axes : int or sequence of int, optional
        The axes that the statistics run over besides the channels of the group, which always count. With None: every
        axis but the leading one, which is the batch, unless it holds the channels.
    **options
        What every norm takes: `epsilon`, `mask`, `masked_output`, `unit`, `out_unit`, `axis_name`, `axis_index_groups`,
        `use_fast_variance`, `dtype`, `affine`, `name`. See :mod:`braindnorm.functional`.

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
    options.setdefault("name", "group_norm")
    groups = (num_groups, group_size)
    return normalize(x, scale, bias, reduction_axes=reduction_axes, feature_axis=feature_axis, groups=groups, **options)
