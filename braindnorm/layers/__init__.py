"""The norms as brainstate Modules: a thin shell each over :mod:`braindnorm.functional`.

Notes
-----
Every argument of the layer of the same name in ``brainstate.nn`` is taken here with the same meaning and default, and
the states have the same paths and shapes, so a checkpoint of one loads in the other.

**Arguments that the layers share**, with those of :mod:`braindnorm.functional`. Each layer repeats what it takes:

in_size : int or sequence of int
    The size of the input without its batch axes. Only the feature axes of an input are compared with it: the others may
    be of any length, since images of another size and shorter sequences are valid. Without parameters, and with
    features that devices may share, so is a part.
use_scale : bool
    Whether to learn a scale (gamma), of the length of `in_size` on the feature axes and 1 elsewhere.
use_bias : bool
    Whether to learn a bias (beta), of the shape of the scale.
scale_init : callable, array_like or Quantity
    The initial scale, in `out_unit`. A quantity sets `out_unit` and is stored as a plain array, so that optimizers and
    checkpoints see plain parameters. A threshold-dependent scale is ``Constant(alpha * (V_th - V_rest))``.
bias_init : callable, array_like or Quantity
    The initial bias, in the ways of `scale_init`.
param_type : type
    The ParamState that holds scale and bias; its ``execute(z)`` applies them.
param_steps : int, optional
    With T, scale and bias get a leading axis of T time steps [1]_ [2]_. The steps that an input is of come from
    ``brainstate.environ.context(i=...)``: an integer in the body of a loop, or ``i=jnp.arange(T)`` around a call on a
    whole sequence, time first. With a call of OverTime on a sequence they count from 0 unless `i` is given.
name : str, optional
    The module's name, which errors show.

References
----------
.. [1] Kim, Y. and Panda, P. (2021). Revisiting batch normalization for training low-latency deep spiking neural
   networks from scratch. Front. Neurosci. 15, 773954. (A scale for each time step.)
.. [2] Duan, C., Ding, J., Chen, S., Yu, Z. and Huang, T. (2022). Temporal effective batch normalization in spiking
   neural networks. NeurIPS 35. (A weight for each time step.)
"""

from ._affine import NormParam
from ._phase import phase
from .batch_norm import BatchNorm
from .batch_norms import BatchNorm0d, BatchNorm1d, BatchNorm2d, BatchNorm3d
from .divisive_norm import DivisiveNorm
from .group_norm import GroupNorm
from .layer_norm import LayerNorm
from .over_time import OverTime
from .rms_norm import RMSNorm
from .spiking import bntt, tab, tdbn, tebn

__all__ = [
    "BatchNorm",
    "BatchNorm0d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "DivisiveNorm",
    "GroupNorm",
    "LayerNorm",
    "NormParam",
    "OverTime",
    "RMSNorm",
    "bntt",
    "phase",
    "tab",
    "tdbn",
    "tebn",
]
