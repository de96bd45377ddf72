r"""The norms as pure, unit-aware functions: what the layers of :mod:`braindnorm.layers` call.

A call goes one way: unit off, mask aligned, moments, standardized z, scale and bias, unit on.

Notes
-----
**Options that every norm shares.**

epsilon : float or Quantity
    :math:`\varepsilon`, added to the variance. A plain number is in (reference unit)^2; a quantity of the
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
stop_statistics_gradient : bool
    Whether the statistics are constants to derivatives [1]_, so that each element has one of its own:
    :math:`\dot y = \gamma\, \dot x / \sqrt{\sigma^2 + \varepsilon}` of a change of the input. Values are the same, and
    scale, bias and epsilon keep their derivatives. It is for online learning rules, which lose what comes before a norm
    that subtracts the mean.
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

References
----------
.. [1] Xu, J., Sun, X., Zhang, Z., Zhao, G. and Lin, J. (2019). Understanding and improving layer normalization.
   NeurIPS 32. arXiv:1911.07013. (Their DetachNorm.)
"""

from ._batch_norm import batch_norm, update_running
from ._divisive import divisive_norm
from ._group_norm import group_norm
from ._layer_norm import layer_norm
from ._rms_norm import rms_norm
from ._statistics import Statistics, moments

__all__ = [
    "Statistics",
    "batch_norm",
    "divisive_norm",
    "group_norm",
    "layer_norm",
    "moments",
    "rms_norm",
    "update_running",
]
