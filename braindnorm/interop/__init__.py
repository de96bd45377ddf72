"""Norms of other packages, there and back: one module a package, imported when a name of it is asked for.

:func:`replace_norms` converts every norm of a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._fold_model import fold_norms
    from ._replace import replace_norms
    from .brainpy import from_brainpy, to_brainpy
    from .brainstate import from_brainstate, register_converters, to_brainstate
    from .equinox import from_equinox, to_equinox
    from .flax import from_flax, to_flax, to_linen
    from .fold import fold_norm
    from .nir import to_nir
    from .spikingjelly import from_spikingjelly, to_spikingjelly
    from .torch import from_torch, to_torch

__all__ = [
    "fold_norm",
    "fold_norms",
    "from_brainpy",
    "from_brainstate",
    "from_equinox",
    "from_flax",
    "from_spikingjelly",
    "from_torch",
    "register_converters",
    "replace_norms",
    "to_brainpy",
    "to_brainstate",
    "to_equinox",
    "to_flax",
    "to_linen",
    "to_nir",
    "to_spikingjelly",
    "to_torch",
]

_HOMES = {
    "_fold_model": ("fold_norms",),
    "_replace": ("replace_norms",),
    "brainpy": ("from_brainpy", "to_brainpy"),
    "brainstate": ("from_brainstate", "register_converters", "to_brainstate"),
    "equinox": ("from_equinox", "to_equinox"),
    "flax": ("from_flax", "to_flax", "to_linen"),
    "fold": ("fold_norm",),
    "nir": ("to_nir",),
    "spikingjelly": ("from_spikingjelly", "to_spikingjelly"),
    "torch": ("from_torch", "to_torch"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
