"""The kernels where ``vmap`` gives each lane a scale and a bias of its own: one call for all of them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional
from tests.cpu_kernels.test_kernels import close, kernels_of
from tests.support import reference
from tests.support.kernels import kernels, needs_compiler
from tests.support.norms import draw, float64

pytestmark = needs_compiler

GRADIENT = ["forward", "backward"]


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    with kernels():
        yield


def over(kind: str, **axes: Any) -> tuple[Any, Any]:
    """Return a norm of (x, scale, bias, mask), and its reference."""

    def norm(x: Any, scale: Any, bias: Any, mask: Any = None, **options: Any) -> jax.Array:
        return getattr(functional, kind)(x, scale=scale, bias=bias, mask=mask, **axes, **options)

    return norm, partial(getattr(reference, kind), **axes)


# a norm and its reference; the shapes of x and of the parameters of a lane; the number of lanes
CASES: dict[str, tuple[tuple[Any, Any], tuple[int, ...], tuple[int, ...], int]] = {
    "one row a lane": (over("layer_norm"), (1, 40), (40,), 70),
    "rows": (over("layer_norm"), (9, 40), (40,), 5),
    "many rows": (over("layer_norm"), (700, 130), (130,), 3),
    "rows along which parameters repeat": (over("layer_norm", reduction_axes=(-2, -1)), (3, 6, 70), (70,), 4),
    "parameters of each row": (over("layer_norm"), (2, 5, 16), (5, 16), 4),
    "one group over space": (
        over("group_norm", num_groups=1, reduction_axes=(-3, -2)),
        (3, 4, 5, 9),
        (9,),
        4,
    ),
    "groups over space": (over("group_norm", num_groups=3, reduction_axes=(-3, -2)), (3, 4, 5, 24), (24,), 4),
    "columns": (over("layer_norm", reduction_axes=(-2,)), (3, 30, 24), (24,), 4),
}


def arguments(case: str) -> tuple[Any, Any, list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the norm, its reference with the parameters of each lane, x, scale and bias of all lanes, a mask and g."""
    (f, want), shape, parameter, lanes = CASES[case]
    arrays = [draw(lanes, *shape, loc=2), draw(lanes, *parameter, seed=1, loc=1), draw(lanes, *parameter, seed=2)]
    valid = np.random.default_rng(3).random((lanes, *shape)) < 0.6
    spare = len(shape) - len(parameter)

    def of_lanes(x: Any, scale: Any, bias: Any, **options: Any) -> np.ndarray:
        wide = (v.reshape(lanes, *[1] * spare, *parameter).astype(float) for v in (scale, bias))
        # groups are taken one after another, with the parameters of all
        return want(x, **dict(zip(("scale", "bias"), wide, strict=True)), **options)

    return f, of_lanes, arrays, valid, draw(lanes, *shape, seed=4)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "mask"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, masked: bool) -> None:
    f, want, (x, scale, bias), valid, g = arguments(case)
    mask, given = (valid, np.where(valid, x, np.nan)) if masked else (None, x)
    options = {"mask": valid if masked else True}

    def both(x: Any, scale: Any, bias: Any) -> Any:
        y, pull = jax.vjp(jax.vmap(f, (0, 0, 0, 0 if masked else None)), x, scale, bias, mask)
        return y, pull(g)[:3]

    assert kernels_of(both, given, scale, bias) == GRADIENT
    y, (dx, dscale, dbias) = jax.jit(both)(given, scale, bias)
    close(y, want(x, scale, bias, **options), 2e-6)
    v = draw(*x.shape, seed=5).astype(float)
    along = reference.directional(lambda x: want(x, scale, bias, **options), x, v)
    close(np.vdot(np.asarray(dx, np.float64), v), np.vdot(g, along), 2e-5)
    ones, zeros = np.ones_like(scale), np.zeros_like(bias)
    seen = np.where(options["mask"], g.astype(np.float64), 0)
    close(dscale, _sum_to(seen * want(x, ones, zeros, **options), scale.shape), 5e-6)
    close(dbias, _sum_to(seen, bias.shape), 5e-6)


def _sum_to(v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.sum(v, tuple(range(1, 1 + v.ndim - len(shape)))).reshape(shape)


def test_lanes_of_lanes() -> None:
    """Of x and the parameters within, of x alone around them, along any axis."""
    f, _ = over("layer_norm")
    x, g = draw(2, 40, 3, 9), draw(2, 3, 9, 40, seed=4)
    scale, bias = draw(40, 3, seed=1, loc=1), draw(3, 40, seed=2)
    inner = jax.vmap(f, (1, 1, 0))  # x: (40, 3, 9) -> lanes of (40, 9), whose transpose is normalized
    of_rows = lambda x, scale, bias: inner(jnp.swapaxes(x, 0, 2), scale, bias)  # noqa: E731

    def both(x: Any, scale: Any, bias: Any) -> Any:
        y, pull = jax.vjp(jax.vmap(of_rows, (0, None, None)), x, scale, bias)
        return y, pull(g)

    assert kernels_of(both, x, scale, bias) == GRADIENT
    y, (dx, dscale, dbias) = jax.jit(both)(x, scale, bias)
    rows = np.moveaxis(x, 1, -1)  # (2, 3, 9, 40)
    wide = {"scale": scale.T[:, None].astype(float), "bias": bias[:, None].astype(float)}
    close(y, reference.layer_norm(rows, **wide), 2e-6)
    v = draw(*x.shape, seed=5).astype(float)
    along = reference.directional(lambda x: reference.layer_norm(x, **wide), rows, np.moveaxis(v, 1, -1))
    close(np.vdot(np.asarray(dx, np.float64), v), np.vdot(g, along), 2e-5)
    close(dscale, np.sum(g.astype(float) * reference.layer_norm(rows), (0, 2)).T, 5e-6)
    close(dbias, np.sum(g.astype(float), (0, 2)), 5e-6)


@pytest.mark.parametrize("case", ["one row a lane", "rows"])
def test_an_epsilon_for_each_lane(case: str) -> None:
    f, want, (x, scale, bias), _, g = arguments(case)
    epsilon = np.linspace(0.1, 2, len(x), dtype=np.float32)

    def run(x: Any, epsilon: Any) -> jax.Array:
        return jax.vmap(lambda x, s, b, e: f(x, s, b, epsilon=e))(x, scale, bias, epsilon)

    def exact(epsilon: Any) -> np.ndarray:
        return want(x, scale, bias, epsilon=epsilon[:, None, None])

    assert kernels_of(run, x, epsilon) == ["forward"]
    close(jax.jit(run)(x, epsilon), exact(epsilon.astype(float)), 2e-6)
    found = jax.jit(jax.grad(lambda e: jnp.vdot(g, run(x, e))))(epsilon)
    change = reference.directional(exact, epsilon, np.ones_like(epsilon))
    close(found, np.sum(g * change, (1, 2)), 1e-5)


def test_the_second_order() -> None:
    """The product of the Hessian with a direction, forward over reverse and reverse over reverse."""
    with float64():
        f, want, arrays, _, g = arguments("rows")
        arrays = [v.astype(np.float64) for v in arrays]
        along = [draw(*v.shape, seed=11 + i).astype(float) for i, v in enumerate(arrays)]

        def loss(*at: Any) -> jax.Array:
            return jnp.vdot(g, jax.vmap(f)(*at))

        @jax.jit
        def both(*at: Any) -> Any:
            slope = jax.grad(loss, (0, 1, 2))
            pulled = jax.vjp(slope, *at)[1](tuple(along))
            return jax.jvp(slope, at, tuple(along))[1], pulled

        def change(at: Any, step: float) -> Callable[[Any], Any]:
            moved = [v + step * d for v, d in zip(at, along, strict=True)]
            return lambda v: np.vdot(g, reference.directional(lambda x: want(x, *moved[1:]), moved[0], v))

        v, step = draw(*arrays[0].shape, seed=20).astype(float), 1e-5
        wanted = (change(arrays, step)(v) - change(arrays, -step)(v)) / (2 * step)
        for found in both(*arrays):
            close(np.vdot(found[0], v), wanted, 1e-7)


def test_a_gradient_for_each_example() -> None:
    """With the parameters' too, each of which is one example's."""
    f, want = over("layer_norm")
    x, g, scale, bias = draw(6, 40, loc=2), draw(6, 40, seed=4), draw(40, seed=1, loc=1), draw(40, seed=2)

    def gradient(x: Any, g: Any, scale: Any, bias: Any) -> Any:
        return jax.grad(lambda *p: jnp.vdot(g, f(x, *p)), (0, 1))(scale, bias)

    each = jax.vmap(gradient, (0, 0, None, None))
    assert kernels_of(each, x, g, scale, bias) == GRADIENT
    dscale, dbias = jax.jit(each)(x, g, scale, bias)
    close(dscale, g * want(x), 5e-6)
    close(dbias, g, 0)


def test_what_is_normalized_once_is_not_copied_for_each_lane() -> None:
    """Where lanes differ in their parameters alone, plain JAX takes the statistics of the one x."""
    f, want = over("layer_norm")
    x, scales, bias = draw(9, 40), draw(3, 40, seed=9, loc=1), draw(40, seed=2)
    run = jax.vmap(f, (None, 0, None))
    assert kernels_of(run, x, scales, bias) == []
    close(jax.jit(run)(x, scales, bias), want(x, scale=scales[:, None].astype(float), bias=bias), 2e-6)
