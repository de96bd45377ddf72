"""A call outside of any program: one compiled program for all of it, looked up by what the call was made with.

Python takes longer to read the options of a norm than a processor to normalize a small array. Here they are read while
JAX traces the call, once for each combination; after that a call costs a look-up and what JAX needs to run a program.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeGuard

import jax
import numpy as np

from .. import cpu_kernels, units
from ..errors import NormError
from ..units import Mantissa, Result, Unit

P = ParamSpec("P")

# the arguments that become arrays of the program; other arrays (an epsilon) are checked by their values
ARRAYS = frozenset({"x", "scale", "bias", "mask"})
# left to the norm itself unless it is None: something else than an array, an axis that may be bound
NEVER_PLAIN = ARRAYS | {"axis_name"}
MAX_PROGRAMS = 1024  # of one norm; then it begins anew

_PLAIN = frozenset({int, float, bool, str, type(None)})
_concrete: set[type] = set()  # the types of arrays that have values


def compiled_when_called(norm: Callable[P, Result]) -> Callable[P, Result]:
    """Run each call of a norm that is outside of any program as a program.

    A call with a tracer, an array of numpy, a list, an axis that is mapped, or scale and bias in a state runs as it is.
    """
    names = [p.name for p in inspect.signature(norm).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    programs: dict[tuple[object, ...], _Program] = {}

    @functools.wraps(norm)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        read = _read(names, args, kwargs)
        if read is None:
            return norm(*args, **kwargs)
        key, arrays, unit = read
        program = programs.get(key)
        if program is None:
            if len(programs) >= MAX_PROGRAMS:
                programs.clear()
            program = programs[key] = _Program(norm, {**dict(zip(names, args, strict=False)), **kwargs})
        try:
            return program(arrays, unit)
        except NormError:
            programs.pop(key, None)
        return norm(*args, **kwargs)  # raises it again, without the frames of JAX

    return call


def _read(
    names: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[tuple[object, ...], list[jax.Array], Unit] | None:
    """Return what identifies the program of a call, its arrays, and the input's unit; None if it is to run as it is."""
    if len(args) > len(names) or any(name in kwargs for name in names[: len(args)]):
        return None
    key: list[object] = [cpu_kernels.in_force()]
    arrays: list[jax.Array] = []
    arrived = None
    for name, value in itertools.chain(zip(names, args, strict=False), kwargs.items()):
        kind = type(value)
        if kind in _PLAIN and (value is None or name not in NEVER_PLAIN):
            key += (name, kind, value)  # 1 and True are told apart by their type
            continue
        inside, unit = units.parts(value)
        if name in ARRAYS and _has_values(inside):
            key += (name, unit, unit.name)  # a hertz equals a becquerel
            arrays.append(inside)
            arrived = unit if name == "x" else arrived
        elif name not in NEVER_PLAIN and _is_static(inside):
            key += (name, type(inside), inside, unit, inside.name if isinstance(inside, Unit) else None)
        else:
            return None
    return None if arrived is None else (tuple(key), arrays, arrived)


def _has_values(value: object) -> TypeGuard[jax.Array]:
    """Tell whether this is an array of JAX with values (not a tracer), and know its type the next time."""
    if type(value) in _concrete:
        return True
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        _concrete.add(type(value))
        return True
    return False


def _is_static(value: object) -> bool:
    """Tell whether a value is compared by all that it means."""
    if isinstance(value, tuple):
        return all(type(v) is int for v in value)
    return type(value) in _PLAIN or isinstance(value, Unit | type | np.dtype)


class _Program:
    """A norm with all of its arguments but the arrays, compiled for each shape and dtype of these."""

    def __init__(self, norm: Callable[..., Result], arguments: Mapping[str, object]) -> None:
        self.norm = norm
        self.units = {
            key: units.parts(value)[1] for key, value in arguments.items() if key in ARRAYS and value is not None
        }
        self.options = {key: value for key, value in arguments.items() if key not in self.units}
        self.unit: Unit | None = None  # of the result, None where it is that of the input
        # inline: within another program it leaves no trace
        self.compiled = jax.jit(self._run, inline=True)

    def __call__(self, arrays: list[jax.Array], arrived: Unit) -> Result:
        return units.restore(self.compiled(arrays), arrived if self.unit is None else self.unit)

    def _run(self, arrays: list[jax.Array]) -> Mantissa:
        pairs = zip(self.units.items(), arrays, strict=True)
        taken = {key: units.restore(array, unit) for (key, unit), array in pairs}
        y, unit = units.strip(self.norm(**taken, **self.options), None)
        arrived = self.units["x"]
        self.unit = None if unit == arrived and unit.name == arrived.name else unit
        return y
