"""The ways through the equation: the fast rule, that with kernels and the plain form agree, and all keep the laws."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainunit import UNITLESS

from braindnorm import cpu_kernels
from braindnorm._numerics.moments import Reduction
from braindnorm.functional import _standardize
from braindnorm.functional._enter import Entry
from braindnorm.functional._standardize import Standardization, standardize
from tests.support import reference
from tests.support.kernels import kernels, needs_compiler

KINDS: dict[str, Any] = {
    "layer": (Reduction((1,)), True),
    "rms": (Reduction((1,)), False),
    "group": (Reduction((), 1, 4), True),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_way = pytest.mark.parametrize("way", ["fast", "plain", pytest.param("kernels", marks=needs_compiler)])
either_mean = pytest.mark.parametrize("fast_variance", [True, False], ids=["default", "compensated"])
Norm = Callable[..., jax.Array]


@pytest.fixture
def take(way: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Send every call one way."""
    monkeypatch.setattr(_standardize, "_local", lambda x, how: way != "plain")
    with kernels() if way == "kernels" else cpu_kernels.disabled():
        yield way


def norm(kind: str, fast_variance: bool = True, epsilon: Any = 1e-6) -> Norm:
    over, centred = KINDS[kind]
    how = Standardization(over, epsilon, centred, fast_variance, False, False)

    def call(x: Any, scale: Any = None, bias: Any = None, valid: Any = None) -> jax.Array:
        entry = Entry(
            x, valid, {"scale": scale, "bias": bias}, {}, None, UNITLESS, UNITLESS, jnp.float32, jnp.float32, None
        )
        y = standardize(entry, how)
        return y if valid is None else jnp.where(valid, y, 0)

    return call


def expected(kind: str, x: Any, **options: Any) -> np.ndarray:
    if kind == "group":
        return reference.group_norm(x, 4, **options)
    return (reference.layer_norm if kind == "layer" else reference.rms_norm)(x, **options)


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs() -> tuple[jax.Array, jax.Array, jax.Array]:
    return draw(5, 32), 1 + draw(32, seed=1), draw(32, seed=2)


@either_mean
@every_way
@every_kind
def test_the_values_are_the_reference(kind: str, take: str, fast_variance: bool) -> None:
    x, scale, bias = inputs()
    y = norm(kind, fast_variance)(x, scale, bias)
    np.testing.assert_allclose(y, expected(kind, x, scale=scale, bias=bias), rtol=1e-5, atol=5e-6)


@every_way
@every_kind
def test_masked_values_are_the_reference(kind: str, take: str) -> None:
    x, scale, bias = inputs()
    valid = jnp.asarray(np.where(np.arange(5)[:, None] == 2, False, np.random.default_rng(3).random(x.shape) < 0.6))
    y = norm(kind)(jnp.where(valid, x, jnp.nan), scale, bias, valid)
    wanted = expected(kind, x, scale=scale, bias=bias, mask=valid)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=5e-6)


@either_mean
@every_way
@every_kind
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_the_gradients_are_those_of_the_reference(kind: str, take: str, fast_variance: bool, masked: bool) -> None:
    """A complex step through the reference gives its derivative along a direction to the last digit."""
    at, along, g = inputs(), tuple(draw(*v.shape, seed=5 + i) for i, v in enumerate(inputs())), draw(5, 32, seed=9)
    valid = jnp.asarray(np.random.default_rng(3).random(g.shape) < 0.6) if masked else None
    pulled = jax.jit(jax.grad(lambda *p: jnp.vdot(g, norm(kind, fast_variance)(*p, valid)), (0, 1, 2)))(*at)
    stepped = [np.asarray(v, np.float64) + 1e-30j * np.asarray(d, np.float64) for v, d in zip(at, along, strict=True)]
    mask = True if valid is None else valid
    y = expected(kind, stepped[0], scale=stepped[1], bias=stepped[2], mask=mask)
    wanted = np.vdot(g, y.imag / 1e-30)
    found = sum(float(jnp.vdot(p, d)) for p, d in zip(pulled, along, strict=True))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-4)


@either_mean
@every_kind
def test_second_derivatives_agree(kind: str, fast_variance: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward over reverse and reverse over forward, each way through the equation."""
    x, scale, bias = inputs()
    v, found = draw(*x.shape, seed=4), []
    for way in (True, False):
        monkeypatch.setattr(_standardize, "_local", lambda x, how, way=way: way)

        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(norm(kind, fast_variance)(x, scale, bias)))

        @jax.jit
        def both(x: jax.Array, loss: Any = loss) -> list[jax.Array]:
            return [jax.jvp(jax.grad(loss), (x,), (v,))[1], jax.grad(lambda x: jax.jvp(loss, (x,), (v,))[1])(x)]

        found += both(x)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-4)


@every_way
@every_kind
def test_under_every_transformation(kind: str, take: str) -> None:
    """One gradient, by jit, vmap over rows, remat and scan."""
    x, scale, bias = inputs()
    g = draw(*x.shape, seed=9)
    call = norm(kind)

    def loss(f: Norm) -> Norm:
        return jax.grad(lambda x: jnp.vdot(g, f(x, scale, bias)))

    def scanned(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, row: (carry, call(row[None], scale, bias)[0]), 0, x)[1]

    rows = jax.vmap(lambda x, s, b: call(x[None], s, b)[0], (0, None, None))
    forms = (call, jax.jit(call), rows, jax.checkpoint(call), scanned)
    wanted, *found = jax.jit(lambda x: [loss(form)(x) for form in forms])(x)
    for other in found:
        np.testing.assert_allclose(other, wanted, rtol=1e-5, atol=1e-5)


@every_way
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_a_constant_group_is_zero_with_finite_gradients(take: str, epsilon: float) -> None:
    call = norm("layer", epsilon=epsilon)
    x = jnp.ones((3, 32))
    assert not jnp.any(call(x))
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(lambda x: call(x)[0, 0]))(x)))
