"""Numbers are read at their true value: integers of 64 bits are never wrapped, in no entry and in no unit."""

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, OverTime, RMSNorm, functional, units
from braindnorm.errors import DtypeError

# nanoseconds: beyond 32 bits, and so that wrapped ones would be small numbers
NS = np.array([[2**40, 2**40 + 2**38, 2**41 + 5, 2**32 + 1]], np.int64)
FORMS: dict[str, Any] = {
    "int64": lambda x: x,
    "uint64": lambda x: x.astype(np.uint64),
    "longlong": lambda x: x.astype(np.longlong),
    "another order of bytes": lambda x: x.astype(">i8"),
    "list": lambda x: x.tolist(),
    "tuple of arrays": lambda x: tuple(x),
    "list of scalars": lambda x: [list(x[0])],
    "list with an array of JAX": lambda x: [[jnp.float32(x[0, 0]), *x[0, 1:].tolist()]],
}
QUANTITIES: dict[str, Any] = {
    "array": lambda x: x * u.nsecond,
    "unsigned": lambda x: x.astype(np.uint64) * u.nsecond,
    "list of quantities": lambda x: [row * u.nsecond for row in x],
    "list of scalars": lambda x: [[int(v) * u.nsecond for v in x[0]]],
}


def layer_norm(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def rms_norm(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True))


@pytest.mark.parametrize("form", FORMS)
def test_wide_integers_in_norms(form: str) -> None:
    x = FORMS[form](NS)
    for norm in (LayerNorm(4), GroupNorm(4, num_groups=1, epsilon=0), functional.layer_norm):
        np.testing.assert_allclose(norm(x), layer_norm(NS), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(RMSNorm(4)(x), rms_norm(NS), rtol=1e-5)
    memory = OverTime(LayerNorm(4))
    memory.init_state(1)
    np.testing.assert_allclose(memory(x), layer_norm(NS), rtol=1e-5, atol=1e-5)
    pooled = NS / (1e3 + NS.mean(-1, keepdims=True, dtype=np.float64))
    np.testing.assert_allclose(DivisiveNorm(4, exponent=1.0, sigma=1e3)(x), pooled, rtol=1e-5)
    _, mean, var = functional.moments(x)
    np.testing.assert_allclose(mean, NS.mean(-1, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, NS.var(-1, dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("form", QUANTITIES)
def test_wide_integers_with_a_unit(form: str) -> None:
    x = QUANTITIES[form](NS)
    for unit in (None, u.nsecond, u.second, u.ms):
        y = functional.layer_norm(x, epsilon=0.0, unit=unit, out_unit=u.UNITLESS)
        np.testing.assert_allclose(y, layer_norm(NS), rtol=1e-5, atol=1e-5)
        mean = functional.moments(x, unit=unit).mean
        np.testing.assert_allclose(mean / u.nsecond, NS.mean(-1, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("value", [2**31, 2**40, -(2**40), np.int64(2**40), np.uint64(2**63)], ids=str)
def test_a_wide_number(value: Any) -> None:
    assert float(np.asarray(units.strip(value, None)[0])) == float(value)
    assert float(functional.moments(value * u.nsecond, ()).mean / u.nsecond) == float(np.float32(value))


def test_narrow_integers_stay_as_they_are() -> None:
    for value in (3, True, np.int32(3), np.uint8([200, 100]), jnp.arange(3), np.array([], np.int16)):
        read = units.strip(value, None)[0]
        assert jnp.result_type(read) == jnp.result_type(value)
        np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16"])
def test_arithmetic_of_narrow_integers_does_not_wrap(dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else np.iinfo(dtype).max, (3, 50)).astype(dtype)
    for call in (functional.layer_norm, jax.jit(functional.layer_norm)):
        np.testing.assert_allclose(call(x), layer_norm(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(functional.moments(x).mean, x.mean(-1, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
def test_integers_keep_their_digits_at_64_bit(dtype: str) -> None:
    x = 2**30 + np.arange(8).astype(dtype)
    with jax.enable_x64(True):
        for call in (functional.layer_norm, jax.jit(functional.layer_norm)):
            y = call(x, epsilon=0.0)
            assert y.dtype == jnp.float64
            np.testing.assert_allclose(y, layer_norm(x), rtol=1e-12)
        np.testing.assert_allclose(functional.moments(x * u.mV, unit=u.volt).var / u.mV**2, 5.25, rtol=1e-6)
    # as wide as float32 lets them be, they are rounded
    assert functional.layer_norm(x).dtype == jnp.float32


def test_more_than_64_bits_are_refused() -> None:
    for value in (2**64, -(2**63) - 1, [2**64, 1]):
        with pytest.raises(DtypeError, match="the input must be a number"):
            functional.layer_norm(value)


def test_floats_of_other_widths_and_orders() -> None:
    x = np.array([1.0, 2.0, 4.0])
    for form in (x.astype(np.longdouble), x.astype(">f4"), x.astype(">f8")):
        np.testing.assert_allclose(functional.layer_norm(form), layer_norm(x), rtol=1e-5, atol=1e-5)


MASKED = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])


@pytest.mark.parametrize(
    "x",
    [MASKED, MASKED.astype(int), [MASKED, MASKED], [1.0, np.ma.masked], u.Quantity(MASKED, unit=u.mV)],
    ids=["floats", "integers", "list", "one element", "quantity"],
)
def test_masked_arrays_are_refused(x: Any) -> None:
    for call in (functional.layer_norm, functional.moments, LayerNorm(3), functional.rms_norm):
        with pytest.raises(DtypeError, match=r"the input is a masked array of numpy, .* Write x\.filled\(0\)"):
            call(x)


def test_the_cure_for_masked_arrays() -> None:
    y = LayerNorm(3)(MASKED.filled(0), mask=~np.ma.getmaskarray(MASKED))
    np.testing.assert_allclose(y, [-1.0, 0.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize(
    "x", [np.array([1, 2], "m8[s]"), np.array([1, None]), None, [1, None], u.ms, jax.random.key(0)]
)
def test_what_is_no_number(x: Any) -> None:
    with pytest.raises(DtypeError, match="the input must be a number"):
        functional.layer_norm(x)
