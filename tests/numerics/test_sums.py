"""Sums and products as each platform wants them: the same numbers, derivatives, and programs that tell them apart."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from braindnorm import functional
from braindnorm._numerics import products, sums
from braindnorm._numerics.barriers import fence
from tests.support import reference

CASES = [
    ((6, 40), (1,)),
    ((300, 300), (1,)),
    ((40, 20000), (0,)),
    ((3, 300, 5000), (1,)),
    ((20, 3, 17000), (0, 1)),
    ((4, 5, 6), (0, 2)),
    ((4, 5, 6), (0, 1, 2)),
    ((4, 5), ()),
    ((0, 17000), (0,)),
    ((7, 0), (1,)),
]


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape, axes", CASES, ids=str)
def test_a_sum(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    v = draw(*shape)
    want = np.sum(np.asarray(v, float), axes, keepdims=True)
    for written in (jax.jit(lambda v: sums.total(v, axes)), lambda v: sums.plain_sum(v, axes=axes)):
        np.testing.assert_allclose(written(v), want, atol=1e-4)


def test_a_sum_of_long_rows_keeps_its_digits() -> None:
    v = 65 + 0.01 * draw(1000, 17000)
    found = jax.jit(lambda v: sums.total(v, (0,)))(v)
    np.testing.assert_allclose(found, np.sum(np.asarray(v, float), 0, keepdims=True), rtol=5e-7)


@pytest.mark.parametrize("shape, axes", CASES, ids=str)
def test_a_sum_and_what_spreads_are_transposes(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    v = draw(*shape)
    s = draw(*np.sum(v, axes, keepdims=True).shape, seed=1)

    @jax.jit
    def every(v: Any, s: Any) -> Any:
        spread = lambda s: sums.spread(s, shape)  # noqa: E731
        (back,), (summed,) = jax.vjp(lambda v: sums.total(v, axes), v)[1](s), jax.vjp(spread, s)[1](v)
        return back, summed, jax.jvp(spread, (s,), (s,))[1]

    back, summed, along = every(v, s)
    np.testing.assert_array_equal(back, np.broadcast_to(s, shape))
    np.testing.assert_allclose(summed, np.sum(np.asarray(v, float), axes, keepdims=True), atol=1e-4)
    np.testing.assert_array_equal(along, back)


def test_sums_and_products_of_lanes() -> None:
    v, rows, columns = draw(3, 5, 7, 4), draw(3, 5, 7, seed=1), draw(3, 4, seed=2)
    np.testing.assert_allclose(jax.vmap(lambda v: sums.total(v, (1,)))(v), np.sum(v, 2, keepdims=True), atol=1e-5)
    spread = jax.vmap(lambda s: sums.spread(s[..., None], (5, 7, 2)), in_axes=2, out_axes=2)(rows.transpose(1, 2, 0))
    np.testing.assert_array_equal(spread, np.broadcast_to(rows.transpose(1, 2, 0)[..., None], (5, 7, 3, 2)))
    outer = jax.vmap(jax.vmap(products.outer, (0, None)))(rows, columns)
    np.testing.assert_allclose(outer, rows[..., None] * columns[:, None, None], atol=1e-6)


def in_general(a: Any, b: Any) -> Any:
    static: dict[str, Any] = {"left": (0,), "right": (1,), "out": (0, 1), "dots": True}
    return products._multiply(a, b, **static)


@pytest.mark.parametrize("dots", [True, False])
@pytest.mark.parametrize("mapped", [None, (0, None), (None, 0), (0, 0)], ids=str)
def test_an_outer_product_and_its_transposes(mapped: Any, dots: bool) -> None:
    """Whether the rows differ among the lanes, the columns, or both."""
    a, b = (draw(*([2] if mapped and mapped[i] == 0 else []), n, seed=i) for i, n in enumerate((5, 7)))

    def f(a: Any, b: Any) -> Any:
        return products.outer(a, b, dots=dots)

    ours, plain = (f, in_general) if mapped is None else (jax.vmap(f, mapped), jax.vmap(in_general, mapped))

    @functools.partial(jax.jit, static_argnums=0)
    def every(f: Any) -> Any:
        y, pull = jax.vjp(f, a, b)
        return y, *pull(y), jax.hessian(lambda a: jnp.sum(f(a, b) ** 3))(a)

    for found, wanted in zip(every(ours), every(plain), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("a, b", [((3, 1, 4), (4,)), ((1, 1), (5, 1)), ((2, 3), (2, 3)), ((3, 1), (1,))], ids=str)
def test_a_product_that_broadcasts_both(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    at, g = (draw(*a), draw(*b, seed=1)), draw(*np.broadcast_shapes(a, b), seed=2)

    @jax.jit
    def every(at: Any) -> Any:
        (y, pull), (want, want_pull) = jax.vjp(products.times, *at), jax.vjp(lambda a, b: a * b, *at)
        return y, want, pull(g), want_pull(g)

    y, want, ours, plain = every(at)
    np.testing.assert_array_equal(y, want)
    for found, wanted in zip(ours, plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def program(f: Any, *shape: int, platform: str = "cpu") -> str:
    return export.export(jax.jit(f), platforms=[platform])(jax.ShapeDtypeStruct(shape, jnp.float32)).mlir_module()


def test_only_a_program_for_a_cpu_has_barriers_and_products_with_ones() -> None:
    def both(x: Any) -> Any:
        return jax.value_and_grad(lambda x: jnp.sum(functional.layer_norm(x, jnp.ones(100), jnp.ones(100)) ** 2))(x)

    assert "optimization_barrier" in program(both, 40, 100)
    assert "dot_general" in program(both, 40, 100)
    for platform in ("cuda", "tpu"):
        assert "optimization_barrier" not in program(both, 40, 100, platform=platform)
        assert "dot_general" not in program(both, 40, 100, platform=platform)


def test_a_tiny_array_has_a_program_of_few_kernels() -> None:
    """Neither products with ones nor a branch, each of which is one more kernel to compile."""

    def both(x: Any) -> Any:
        return jax.grad(lambda x: jnp.sum(functional.layer_norm(x, jnp.ones(x.shape[1]), mask=x > 0) ** 2))(x)

    tiny, more = program(both, 4, 6), program(both, 4, 600)
    for expensive in ("dot_general", "stablehlo.case"):
        assert expensive not in tiny
        assert expensive in more


@pytest.mark.parametrize("mapped", [(0, None, None), (0, 0, 0), (None, 0, None)], ids=str)
def test_no_batch_of_products_and_no_sum_over_lanes_alone(mapped: Any) -> None:
    """XLA for CPU does them in loops, and column by column."""
    norm = jax.vmap(functional.layer_norm, mapped)

    def gradients(x: Any) -> Any:
        scale, bias = (jnp.ones((64,) * (dim == 0) + (100,)) for dim in mapped[1:])
        x = x if mapped[0] == 0 else x[0]
        return jax.grad(lambda *p: jnp.sum(norm(*p) ** 2), (0, 1, 2))(x, scale, bias)

    text = program(gradients, 64, 70, 100)
    assert "batching_dims" not in text
    if mapped[0] == 0:
        assert "-> tensor<70x100xf32>" not in text


def test_a_barrier_is_left_out_of_what_is_small_or_large_with_all_its_lanes() -> None:
    many = 2**21

    def f(x: Any) -> Any:
        return fence(x, size=x.size, unless=(range(2001), range(many, 10 * many)))

    lanes = many // 1000 + 1
    assert "optimization_barrier" not in program(jax.vmap(f), 2, 1000)
    assert "optimization_barrier" in program(jax.vmap(f), 3, 1000)
    assert "optimization_barrier" in program(jax.vmap(f), lanes - 1, 1000)
    assert "optimization_barrier" not in program(jax.vmap(f), lanes, 1000)
    assert "optimization_barrier" not in program(jax.vmap(jax.vmap(f)), 2, lanes // 2 + 1, 1000)
    assert "optimization_barrier" in program(lambda x: fence(x), lanes, 1000)


def test_a_barrier_has_derivatives() -> None:
    x = draw(3)

    def f(x: Any) -> Any:
        a, b = fence((x * 2, x.shape[0] * jnp.ones(3)))
        return a * a + b

    along, back = jax.jit(lambda x: (jax.jvp(f, (x,), (jnp.ones(3),))[1], jax.grad(lambda x: jnp.sum(f(x)))(x)))(x)
    assert jnp.array_equal(along, 8 * x)
    assert jnp.array_equal(back, 8 * x)


@pytest.mark.parametrize("axes", [-1, 0, (1, 2), (0, 1, 2)], ids=str)
def test_symbolic_sizes(axes: Any) -> None:
    """A program that is exported for any batch."""

    def both(x: Any, mask: Any) -> Any:
        y, pull = jax.vjp(lambda x: functional.layer_norm(x, reduction_axes=axes, mask=mask), x)
        moments = functional.moments(x, axes, mask=mask, keepdims=True)
        response = functional.divisive_norm(x, 1.0, pool_axes=axes, mask=mask)
        return y, functional.layer_norm(x, reduction_axes=axes), response, moments.mean, *pull(y)

    shape = export.symbolic_shape("b, 8, 16")
    exported = export.export(jax.jit(both))(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.bool)
    )
    x, mask = draw(5, 8, 16), np.random.default_rng(0).random((5, 8, 16)) < 0.8
    y, whole, response, mean, _ = exported.call(x, mask)
    drive, n = np.where(mask, np.maximum(x, 0), 0) ** 2, mask.sum(axes, keepdims=True)
    np.testing.assert_allclose(y, reference.layer_norm(x, axes, mask=mask), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole, reference.layer_norm(x, axes), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(response, drive / (1 + drive.sum(axes, keepdims=True) / n), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, np.where(mask, x, 0).sum(axes, keepdims=True) / n, rtol=1e-5, atol=1e-5)


def test_counts_as_integers_and_as_floats() -> None:
    """A mask is counted as whichever of them is sooner summed over its axes: one program has them all."""
    rng = np.random.default_rng(0)
    cases = [((40, 50), (0, 1)), ((70, 40), (0,)), ((90, 70), (1,)), ((300, 20), (1,)), ((6, 9, 80), (0, 1))]
    masks = [rng.random(shape) < 0.6 for shape, _ in [*cases, ((3, 5000), (0,))]]
    axes = [*(axes for _, axes in cases), (0,)]

    def count(masks: list[Any]) -> list[Any]:
        lanes = jax.vmap(lambda m: sums.total(m.astype(jnp.int32), (0,)))(masks[-2])
        return [lanes, *(sums.total(m.astype(jnp.int32), over) for m, over in zip(masks, axes, strict=True))]

    lanes, *found = jax.jit(count)(masks)
    np.testing.assert_array_equal(lanes, masks[-2].sum(1, keepdims=True))
    for counted, mask, over in zip(found, masks, axes, strict=True):
        assert counted.dtype == jnp.int32
        np.testing.assert_array_equal(counted, mask.sum(over, keepdims=True))
