"""Powers of magnitudes whose base, exponent or result may leave the range of floating point."""

import jax
import jax.numpy as jnp
import numpy as np

from ..units import Dtype


def limits_of(dtype: Dtype) -> tuple[int, int]:
    """Return the binary exponents between which numbers are normal."""
    limits = np.finfo(dtype)
    return int(limits.minexp), int(limits.maxexp)


def exponent_of(size: jax.Array) -> jax.Array:
    """Return the binary exponent of a number, rounded down, in range and without a gradient."""
    integer, bias, digits = _layout(size.dtype)
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(jnp.abs(size)), integer)
    return in_range(((bits >> digits) - bias).astype(size.dtype))


def in_range(exponent: jax.Array) -> jax.Array:
    """Return the whole exponent of a number that is normal, and whose reciprocal is."""
    lowest, highest = limits_of(exponent.dtype)
    return jnp.round(jnp.clip(exponent, lowest + 1, highest - 2))


def two_to(binary: jax.Array, exponent: float = 1.0) -> jax.Array:
    """Return a whole power of two to the power of n; a whole power of that exactly."""
    if exponent < 1:  # the first power may be out of range
        return jnp.power(jnp.asarray(2, binary.dtype), binary * exponent)
    integer, bias, digits = _layout(binary.dtype)
    # exp2 is off by some ulp, and a power takes ten times as long
    field = jnp.clip(jax.lax.stop_gradient(binary), -bias, bias + 1).astype(integer) + bias
    return power(jax.lax.bitcast_convert_type(field << digits, binary.dtype), exponent)


def unit_of(size: jax.Array) -> jax.Array:
    """Return the reciprocal of a normal number, rounded to a power of two: no quotient, and no gradient."""
    integer, bias, digits = _layout(size.dtype)
    field = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(size), integer) >> digits
    return jax.lax.bitcast_convert_type((2 * bias - field) << digits, size.dtype)


def _layout(dtype: Dtype) -> tuple[Dtype, int, int]:
    """Return an integer of as many bits as a float, the bias of its exponent, and the bits below that."""
    limits = np.finfo(dtype)
    return np.dtype(f"int{limits.bits}"), int(limits.maxexp) - 1, int(limits.nmant)


def power(magnitude: jax.Array, exponent: float) -> jax.Array:
    """Return a magnitude to the power of n, with a finite derivative at 0."""
    if exponent == int(exponent):
        return jax.lax.integer_pow(magnitude, int(exponent))
    zero = magnitude <= 0
    return jnp.where(zero, 0, jnp.where(zero, 1, magnitude) ** exponent)


def scaled_power(a: jax.Array, unit: jax.Array, exponent: float) -> jax.Array:
    """Return (a u)^n; for n < 1 the product may be out of range, and the power not."""
    return power(a * unit, exponent) if exponent >= 1 else power(a, exponent) * power(unit, exponent)


def signed_power(drive: jax.Array, unit: jax.Array, exponent: float) -> jax.Array:
    """Return sign(D) |D u|^n; for n = 1 this is D u, with a derivative at 0."""
    if exponent < 1:
        return jnp.sign(drive) * scaled_power(jnp.abs(drive), unit, exponent)
    scaled = drive * unit
    return scaled if exponent == 1 else scaled * power(jnp.abs(scaled), exponent - 1)
