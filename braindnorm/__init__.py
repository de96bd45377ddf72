"""Layer, RMS and group normalization for brain-dynamics models: units, masks and devices included."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import cpu_kernels, errors, functional, masks
from ._step_mask import step_mask
from .layers import DivisiveNorm, GroupNorm, LayerNorm, NormParam, OverTime, RMSNorm

if TYPE_CHECKING:
    from . import inspect
    from .replace import replace_norms

__all__ = [
    "DivisiveNorm",
    "GroupNorm",
    "LayerNorm",
    "NormParam",
    "OverTime",
    "RMSNorm",
    "__version__",
    "cpu_kernels",
    "errors",
    "functional",
    "inspect",
    "masks",
    "replace_norms",
    "step_mask",
]


def __getattr__(name: str) -> Any:
    """Import what few programs use when it is asked for."""
    if name == "inspect":
        return import_module(".inspect", __name__)
    if name == "replace_norms":
        return import_module(".replace", __name__).replace_norms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
