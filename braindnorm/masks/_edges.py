"""Times and potentials at an edge: what is within rounding of an edge is on it, or it is said that none can tell.

Values that are known are compared on the host in float64, whatever they came in; traced ones in the widest float of
JAX. The rounding is that of the coarsest value that came, since a time in float32 has lost its digits before.
"""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DtypeError, MaskError, UnitError
from ..units import Mantissa, QuantityLike, Unit, convert, floating, known, strip

# of a step: what is nearer to an edge is on it
SHARE = 1e-3
# a product, a change of unit and the rounding of both sides leave less than this many roundings
ROUNDINGS = 4


# numpy's on the host, JAX's where traced
Array = np.ndarray | jax.Array


class Compared(NamedTuple):
    """Values in one unit: numpy's float64 where known, else traced. `rounding` is theirs, relative to their size."""

    values: dict[str, Array]
    unit: Unit
    rounding: float

    def blur(self, size: Array) -> Array:
        """Return how far apart two values of this size may come out that were meant to be equal."""
        return ROUNDINGS * self.rounding * size


def in_one_unit(**quantities: QuantityLike) -> Compared:
    """Read values of one dimension.

    Raises
    ------
    UnitError
        If they are of several, with all of them.
    DtypeError
        If they are not real numbers.
    """
    read = {key: strip(value, None, what=key) for key, value in quantities.items()}
    units = {key: unit for key, (_, unit) in read.items()}
    first, *others = units.values()
    if not all(unit.has_same_dim(first) for unit in others):
        came = ", ".join(f"{key} " + ("without a unit" if v.is_unitless else f"in {v}") for key, v in units.items())
        raise UnitError(f"got {came}. Give them in units of one dimension, or all as plain numbers.")
    for key, (mantissa, _) in read.items():
        if jnp.issubdtype(jnp.result_type(mantissa), jnp.complexfloating):
            raise DtypeError(f"{key} must be real numbers; got {quantities[key]!r}.")
    on_host = {key: known(mantissa) for key, (mantissa, _) in read.items()}
    # what is traced keeps its unit, where it can
    target = next((units[key] for key, value in on_host.items() if value is None), first)
    values: dict[str, Array] = {}
    for key, (mantissa, unit) in read.items():
        if (host := on_host[key]) is None:
            values[key] = jnp.asarray(convert(_widest(mantissa), unit, target))
        else:
            values[key] = np.asarray(convert(host, unit, target))
    rounding = max(_rounding(mantissa, on_host[key] is None) for key, (mantissa, _) in read.items())
    return Compared(values, target, rounding)


def check_shapes(compared: Compared) -> None:
    """Raise unless all the values broadcast to the first, the neurons."""
    (first, neurons), *others = ((key, np.shape(value)) for key, value in compared.values.items())
    for key, shape in others:
        try:
            fits = np.broadcast_shapes(neurons, shape) == neurons
        except ValueError:
            fits = False
        if not fits:
            raise MaskError(
                f"{key} of shape {shape} does not broadcast to {first} of shape {neurons}. Give one number, or"
                " one for each neuron."
            )


def before(times: Array, ends: Array, compared: Compared, *, step: Array | None = None) -> jax.Array:
    """Mask the times, of shape (T,), that lie before the ends by more than they may be off."""
    steps = spacing(times) if step is None else step
    numpy = module_of(times)
    blur = compared.blur(numpy.abs(times))
    spread = [1] * np.ndim(ends)
    if numpy is np and isinstance(ends, np.ndarray):
        coarse = blur > steps / 2
        near = np.abs(times[coarse].reshape(-1, *spread) - ends) <= blur[coarse].reshape(-1, *spread)
        refuse_blurred(near, "an end", compared)
    # where nothing is known to be refused, an end is still taken for no step but its neighbours
    edges = times + numpy.where(numpy.isinf(steps), 0, SHARE * steps) + numpy.minimum(blur, steps / 2)
    return jnp.asarray(edges.reshape(-1, *spread) < ends)


def module_of(*values: Array) -> ModuleType:
    """Return numpy where all values are known, else JAX's."""
    return np if all(isinstance(value, np.ndarray) for value in values) else jnp


def spacing(times: Array) -> Array:
    """Return how far each time is from its nearer neighbour; infinity for a single one."""
    numpy = module_of(times)
    if not times.size:
        return times
    with np.errstate(invalid="ignore"):  # between times at infinity there is no step
        gaps = numpy.pad(numpy.abs(numpy.diff(times)), 1, constant_values=numpy.inf)
    nearer: Array = numpy.minimum(gaps[1:], gaps[:-1])
    return nearer


def refuse_blurred(near: Array, what: str, compared: Compared) -> None:
    """Raise if anything is nearer to an edge than its rounding, where that is more than half of a step."""
    if np.any(near):
        raise MaskError(
            f"it cannot be told at which step {what} lies: values of this size come with a rounding of"
            f" {compared.rounding:.1e} of them, too coarse for the steps. Count time from the start of the trial, or"
            " give numpy.float64 (or precision=64)."
        )


def _widest(mantissa: Mantissa) -> jax.Array:
    array = floating(mantissa)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _rounding(mantissa: Mantissa, traced: bool) -> float:
    """Return the relative rounding of a value as it came, and of the arithmetic that it takes part in."""
    dtype = np.asarray(mantissa).dtype if not isinstance(mantissa, jax.Array) else mantissa.dtype
    if traced:
        dtype = floating(mantissa).dtype
    elif not jnp.issubdtype(dtype, jnp.floating):
        dtype = np.dtype(np.float64)  # integers are exact
    return float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]
