"""Layer, RMS, group and batch normalization for brain-dynamics models: units, masks and devices included."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import cpu_kernels, errors, functional, masks
from .layers import (
    BatchNorm,
    BatchNorm0d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    DivisiveNorm,
    GroupNorm,
    LayerNorm,
    NormParam,
    OverTime,
    RMSNorm,
    bntt,
    phase,
    tab,
    tdbn,
    tebn,
)
from .masks import step_mask

if TYPE_CHECKING:
    from . import interop, monitor
    from .interop import replace_norms

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
    "__version__",
    "bntt",
    "cpu_kernels",
    "errors",
    "functional",
    "interop",
    "masks",
    "monitor",
    "phase",
    "replace_norms",
    "step_mask",
    "tab",
    "tdbn",
    "tebn",
]


def __getattr__(name: str) -> Any:
    """Import what few programs use when it is asked for."""
    if name in ("interop", "monitor"):
        return import_module(f".{name}", __name__)
    if name == "replace_norms":
        return import_module(".interop", __name__).replace_norms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
