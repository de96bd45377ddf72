"""Numbers of two terms, beside float64 numbers and Python's exact fractions."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics.two_term import TwoTerm, cast, minus, plus, product, single
from tests.support.norms import float64


def exactly(a: TwoTerm) -> Fraction:
    return Fraction(float(a.value)) + Fraction(float(a.rest))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("a", "b"), [(65.3, 1e-6), (1e-6, -65.3), (65.3, -65.29999), (1e8, 0.1), (0.0, 3.7)])
def test_a_sum_of_two_floats_is_exact(a: float, b: float, wrap: Any) -> None:
    a, b = np.float32(a), np.float32(b)
    total = wrap(plus)(single(jnp.asarray(a)), single(jnp.asarray(b)))
    assert exactly(total) == Fraction(float(a)) + Fraction(float(b))
    assert float(total.value) == np.float32(float(a) + float(b))


def test_a_long_sum_of_products_in_a_compiled_loop() -> None:
    """A share of 1e-9 of the sum, where a float32 holds no more than 6e-8."""
    x = np.random.default_rng(0).random((100_000, 3)).astype(np.float32)
    share = jnp.float32(1e-5)

    @jax.jit
    def run(x: jax.Array) -> TwoTerm:
        start = single(jnp.full(3, -1e4, jnp.float32))
        return jax.lax.scan(lambda past, v: (plus(past, single(product(v, share))), None), start, x)[0]

    total = run(jnp.asarray(x))
    expected = x.astype(float).sum(0) * float(share)
    got = (np.asarray(total.value, float) + 1e4) + np.asarray(total.rest, float)
    assert np.allclose(got, expected, rtol=1e-6, atol=0)


def test_the_error_of_rounding_has_no_gradient() -> None:
    def value(a: Any, b: Any) -> Any:
        total = plus(single(a), single(b))
        return total.value + total.rest

    assert jax.grad(value, argnums=(0, 1))(jnp.float32(65.3), jnp.float32(1e-6)) == (1, 1)


def test_float64_in_two_floats_of_32_bit_and_back() -> None:
    with float64():
        x = jnp.asarray(np.random.default_rng(0).normal(-65, 0.01, 100))
        half = cast(single(x), jnp.float32)
        assert {half.value.dtype, half.rest.dtype} == {np.dtype("float32")}
        again = cast(half, jnp.float64)
        assert np.allclose(again.value, x, rtol=2.0**-47, atol=0)
        assert not np.any(again.rest)
        assert np.allclose(minus(again, single(x - 1e-9)), 1e-9, rtol=1e-3)
