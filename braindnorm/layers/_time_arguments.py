"""What OverTime is told: which norm, how many trials, which axis is time, where trials begin."""

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics.axes import Axes, as_axes, as_int
from ..errors import AxisError, OptionError
from ..units import Shape
from .group_norm import GroupNorm
from .layer_norm import LayerNorm
from .rms_norm import RMSNorm

Wrapped = LayerNorm | RMSNorm | GroupNorm


def check_wrapped(norm: Wrapped) -> None:
    """Raise unless `norm` is a norm whose statistics are all that it does.

    Raises
    ------
    OptionError
        If it is none of this package, or has an `update` of its own, which a norm over time would not call.
    """
    wanted = "OverTime wraps a LayerNorm, an RMSNorm or a GroupNorm of braindnorm"
    if isinstance(norm, type):
        raise OptionError(f"{wanted}; got the class {norm.__name__}. Build it first: {norm.__name__}(in_size).")
    kinds = [kind for kind in (LayerNorm, RMSNorm, GroupNorm) if isinstance(norm, kind)]
    kind, module = type(norm), type(norm).__module__
    if not kinds:
        path = ".".join([*(part for part in module.split(".") if not part.startswith("_")), kind.__qualname__])
        of_package = path.startswith("braindnorm.")
        cure = "" if of_package else (
            " Convert a norm of another package with braindnorm.interop, such as interop.from_brainstate(norm)."
        )  # fmt: skip
        raise OptionError(f"{wanted}; got a {path}.{cure}")
    if kind.update is not kinds[0].update:
        raise OptionError(
            f"{wanted}; got a {kind.__name__}, whose update is its own. OverTime takes the options and parameters of a"
            f" norm and does not call its update. Wrap a plain {kinds[0].__name__}, and do the rest before or after it."
        )


def batch_shape(batch_size: Axes | None) -> Shape:
    """Return the batch axes of a step: of an integer, several, or None for a single trial.

    Raises
    ------
    OptionError
        If they are not integers, or one is below 0.
    """
    if batch_size is None:
        return ()
    several: list[object] = [batch_size]
    if isinstance(batch_size, list | tuple | np.ndarray) and np.ndim(batch_size):
        several = list(batch_size)
    try:
        sizes = tuple(map(as_int, several))
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=0) < 0:
        raise OptionError(
            f"batch_size must be the batch axes of a step's input, an integer or a tuple of them, or None for a"
            f" single trial; got {batch_size!r}."
        )
    return sizes


def check_time_axis(time_axis: Axes) -> int:
    """Return the one axis that is time.

    Raises
    ------
    AxisError
        If it is not one integer.
    """
    axes = as_axes(time_axis, option="time_axis")
    if len(axes) != 1:
        raise AxisError(f"time_axis must be one integer, the axis of xs that is time; got {time_axis!r}.")
    return axes[0]


def each_step(reset: jax.Array | None, num_steps: int) -> jax.Array | None:
    """Return where trials begin in each step. What has no axis of time means the first step, not all."""
    if reset is None or reset.shape[0] == num_steps:
        return reset
    return reset & (jnp.arange(num_steps) == 0).reshape(-1, *[1] * (reset.ndim - 1))
