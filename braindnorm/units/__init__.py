"""The boundary between physical quantities and plain arrays.

A unit comes off here before any arithmetic and goes back on here after it. No other module of the
package touches ``brainunit.Quantity``, so everything between the two is plain JAX: under ``jit`` a quantity
and its mantissa compile to the same program.
"""

from ._boundary import (
    UNITLESS,
    check_unit,
    convert,
    in_si,
    is_event,
    is_unitless,
    parts,
    restore,
    shape_of,
    strip,
    strip_parameters,
    unwrap,
)
from ._epsilon import check_epsilon, variance_of
from ._numbers import exact, floating, is_masked, known
from ._types import Dtype, DtypeLike, HostResult, Initializer, Mantissa, MaskLike, QuantityLike, Result, Shape, Unit

__all__ = [
    "UNITLESS",
    "Dtype",
    "DtypeLike",
    "HostResult",
    "Initializer",
    "Mantissa",
    "MaskLike",
    "QuantityLike",
    "Result",
    "Shape",
    "Unit",
    "check_epsilon",
    "check_unit",
    "convert",
    "exact",
    "floating",
    "in_si",
    "is_event",
    "is_masked",
    "is_unitless",
    "known",
    "parts",
    "restore",
    "shape_of",
    "strip",
    "strip_parameters",
    "unwrap",
    "variance_of",
]
