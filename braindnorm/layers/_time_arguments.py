"""What OverTime is told: which norm, how many trials, which axis is time, where trials begin."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._numerics.axes import Axes, as_axes, as_int
from .._numerics.memory import Memory
from ..errors import AxisError, OptionError, UnitError
from ..masks._align import as_booleans
from ..masks._step_mask import fit_leading
from ..units import MaskLike, QuantityLike, Shape
from .batch_norm import BatchNorm
from .divisive_norm import DivisiveNorm
from .group_norm import GroupNorm
from .layer_norm import LayerNorm
from .rms_norm import RMSNorm

Wrapped = LayerNorm | RMSNorm | GroupNorm | BatchNorm | DivisiveNorm
KINDS = (LayerNorm, RMSNorm, GroupNorm, BatchNorm, DivisiveNorm)


def check_wrapped(norm: Wrapped) -> None:
    """Raise unless `norm` is a norm whose statistics are all that it does.

    Raises
    ------
    OptionError
        If it is none of this package, or has an `update` of its own, which a norm over time would not call.
    """
    wanted = f"OverTime wraps a norm of braindnorm ({', '.join(kind.__name__ for kind in KINDS)})"
    if isinstance(norm, type):
        raise OptionError(f"{wanted}; got the class {norm.__name__}. Build it first: {norm.__name__}(in_size).")
    kinds = [kind for kind in KINDS if isinstance(norm, kind)]
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


def where_trials_begin(reset: MaskLike | None, x: QuantityLike, in_size: Shape) -> jax.Array | None:
    """Return a reset with as many axes as the input; None if there is none."""
    if reset is None:
        return None
    return fit_leading(as_booleans(reset, what="reset"), units.shape_of(x), in_size, what="reset")


def check_declared_unit(norm: Wrapped, x: QuantityLike) -> None:
    """Raise if an input has a unit and the norm declares none: a memory has one.

    Raises
    ------
    UnitError
        With the unit to declare.
    """
    arrived = units.strip(x, None)[1]
    if norm.unit is None and not arrived.is_unitless:
        raise UnitError(
            f"the memory has one unit: got an input in {arrived}, but the norm has unit=None. Build it with"
            f" {type(norm).__name__}(..., unit=...)."
        )


def empty_memory(norm: Wrapped, batch_size: Axes | None) -> dict[str, jax.Array]:
    """Return the arrays of a memory of nothing, of the shape of a step's statistics."""
    shape = (*batch_shape(batch_size), *norm.in_size)
    # with a matrix each element has a pool of its own
    axes = () if isinstance(norm, DivisiveNorm) and norm.has_weights else norm.reduction(shape).axes
    kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
    dtype = jnp.promote_types(brainstate.environ.dftype(), jnp.float32)
    return Memory.empty(tuple(kept), dtype).arrays()
