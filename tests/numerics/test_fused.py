"""The fast rule alone: its values, its derivatives, and what it keeps for the way back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics.barriers import Sizes
from braindnorm._numerics.deferred import Deferred
from braindnorm._numerics.fused import fused_norm
from braindnorm._numerics.moments import Reduction
from braindnorm._numerics.plan import SMALL, Centring, Plan
from tests.support import reference

ROWS = Reduction((1,))
either_platform = pytest.mark.parametrize("platform", ["cpu", "accelerator"])
every_centring = pytest.mark.parametrize("centring", Centring, ids=lambda centring: centring.name.lower())


def plan(over: Reduction = ROWS, centring: Centring = Centring.MEAN, unfenced: Sizes = ()) -> Plan:
    return Plan(over, centring, unfenced, jnp.dtype("float32"))


@pytest.fixture
def written_for(platform: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write every operation as it is written for this platform."""
    if platform == "accelerator":
        monkeypatch.setattr(Deferred, "__call__", lambda self, *values, **static: self._general(*values, **static))
    return platform


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def close(actual: Any, desired: Any, tolerance: float = 5e-6) -> None:
    np.testing.assert_allclose(np.asarray(actual, np.float64), desired, rtol=tolerance, atol=tolerance)


@every_centring
@either_platform
def test_the_value_is_the_equation(written_for: str, centring: Centring) -> None:
    x, scale, bias = draw(6, 40), 1 + draw(40, seed=1), draw(40, seed=2)
    y = jax.jit(lambda *at: fused_norm(plan(centring=centring), at[0], None, 1e-6, *at[1:]))(x, scale, bias)
    norm = reference.rms_norm if centring is Centring.NONE else reference.layer_norm
    close(y, norm(x, scale=scale, bias=bias))


@every_centring
def test_without_barriers_it_is_the_same(centring: Centring) -> None:
    """The value alone is computed in another order; the value beside a derivative, and the derivative, are not."""
    at = draw(6, 40), jnp.float32(0.1), 1 + draw(40, seed=1), draw(40, seed=2)
    ways = [plan(centring=centring, unfenced=unfenced) for unfenced in ((SMALL,), ())]
    free, fenced = (jax.jit(lambda *at, way=way: fused_norm(way, at[0], None, *at[1:]))(*at) for way in ways)
    close(free, fenced, 1e-6)
    loss = lambda x, way: jnp.sum(fused_norm(way, x, None, *at[1:]) ** 2)  # noqa: E731
    free, fenced = (jax.jit(jax.grad(lambda x, way=way: loss(x, way)))(at[0]) for way in ways)
    np.testing.assert_array_equal(free, fenced)


@either_platform
@pytest.mark.parametrize("axis, shape", [(3, (2, 4, 5, 6)), (1, (2, 6, 4, 5))], ids=["last", "first"])
def test_groups_of_channels(axis: int, shape: tuple[int, ...], written_for: str) -> None:
    x = draw(*shape)
    reduced = tuple(i for i in (1, 2, 3) if i != axis)
    parameter = (6,) if axis == 3 else (6, 1, 1)
    scale, bias = 1 + draw(*parameter, seed=1), draw(*parameter, seed=2)
    y = jax.jit(lambda x: fused_norm(plan(Reduction(reduced, axis, 3)), x, None, 1e-6, scale, bias))(x)
    close(y, reference.group_norm(x, 3, axis, reduced, scale=scale, bias=bias))


@every_centring
@either_platform
def test_the_reverse_is_the_transpose_of_the_forward(written_for: str, centring: Centring) -> None:
    """<g, J v> = <J' g, v>, over x, epsilon, scale and bias at once."""
    how = plan(centring=centring)
    at = (draw(6, 40), jnp.float32(0.1), 1 + draw(40, seed=1), draw(40, seed=2))
    along = tuple(draw(*np.shape(v), seed=3 + i) for i, v in enumerate(at))

    def f(x: Any, epsilon: Any, scale: Any, bias: Any) -> jax.Array:
        return fused_norm(how, x, None, epsilon, scale, bias)

    g = draw(6, 40, seed=9)
    pulled, pushed = jax.jit(lambda at: (jax.vjp(f, *at)[1](g), jax.jvp(f, at, along)[1]))(at)
    close(sum(jnp.vdot(p, v) for p, v in zip(pulled, along, strict=True)), float(jnp.vdot(g, pushed)), 2e-5)


def test_a_parameter_of_any_shape() -> None:
    """Scale and bias along the rows, along both axes, and of length 1."""
    x = draw(6, 40)

    def f(scale: Any, bias: Any) -> Any:
        y = fused_norm(plan(), x, None, 1e-6, scale, bias)
        return jnp.sum(y), y

    for shape in ((6, 1), (6, 40), (1, 40), (1, 1), (1,)):
        scale, bias = 1 + draw(*shape, seed=1), draw(*shape, seed=2)
        gradient, y = jax.jit(jax.grad(f, has_aux=True))(scale, bias)
        close(y, reference.layer_norm(x, scale=scale, bias=bias))
        z = reference.layer_norm(x)
        close(gradient, np.sum(np.broadcast_to(z, x.shape), axis=_spread(shape), keepdims=True).reshape(shape), 5e-5)


def _spread(shape: tuple[int, ...]) -> tuple[int, ...]:
    padded = (1,) * (2 - len(shape)) + shape
    return tuple(axis for axis, n in enumerate(padded) if n == 1)


@pytest.mark.parametrize("size", [41, 55, 83, 97, 100, 784])
def test_a_constant_shift_has_a_tangent_of_exactly_zero(size: int) -> None:
    x = draw(4, size)
    scale, bias = 1 + draw(size, seed=1), draw(size, seed=2)
    how = plan(centring=Centring.COMPENSATED)
    f = jax.jit(lambda x: fused_norm(how, x, None, 1e-6, scale, bias))
    assert not jnp.any(jax.jvp(f, (x,), (jnp.ones_like(x),))[1])
    assert not jnp.any(jax.jit(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])(x))


def test_it_keeps_x_and_two_numbers_a_row() -> None:
    """In a scan, what is saved for the way back is x once, in its own dtype, and what is small."""
    steps, shape = 50, (64, 128)
    how = plan()

    def loss(x: jax.Array, scale: jax.Array) -> jax.Array:
        def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
            return carry + jnp.sum(fused_norm(how, row, None, 1e-6, scale, None)), None

        return jax.lax.scan(step, jnp.zeros(()), x)[0]

    x = jnp.zeros((steps, *shape), jnp.float16)
    compiled = jax.jit(jax.grad(loss, 1)).lower(x, jnp.ones(shape[1])).compile()
    a_wide_array = 4 * shape[0] * shape[1]
    assert compiled.memory_analysis().temp_size_in_bytes < steps * a_wide_array


def test_no_row_and_no_column() -> None:
    for shape in ((0, 4), (4, 0)):
        x = jnp.zeros(shape)
        f = jax.jit(jax.grad(lambda x: jnp.sum(fused_norm(plan(), x, None, 1e-6, jnp.ones(x.shape[1]), None))))
        gradient = f(x)
        assert gradient.shape == shape
