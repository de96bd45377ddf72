"""Layer, RMS and group normalization for brain-dynamics models: units, masks and devices included."""

__version__ = "0.1.0"

from . import errors, functional, masks
from ._step_mask import step_mask
from .layers import DivisiveNorm, GroupNorm, LayerNorm, NormParam, OverTime, RMSNorm

__all__ = [
    "DivisiveNorm",
    "GroupNorm",
    "LayerNorm",
    "NormParam",
    "OverTime",
    "RMSNorm",
    "__version__",
    "errors",
    "functional",
    "masks",
    "step_mask",
]
