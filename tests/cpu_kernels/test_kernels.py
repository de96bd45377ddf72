"""The kernels against the float64 reference, and where they are used."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional
from braindnorm.cpu_kernels import _view
from tests.support import reference
from tests.support.kernels import kernels, needs_compiler
from tests.support.norms import draw, float64

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    with kernels():
        yield


def over(kind: str, **axes: Any) -> tuple[Any, Any]:
    """Return a norm of (x, scale, bias), RMSNorm with a bias added, and its reference."""

    def norm(x: Any, scale: Any = None, bias: Any = None, **options: Any) -> jax.Array:
        if kind != "rms_norm":
            return getattr(functional, kind)(x, scale=scale, bias=bias, **axes, **options)
        y, mask = functional.rms_norm(x, scale, **axes, **options), options.get("mask")
        return y + bias if mask is None else jnp.where(mask, y + bias, 0)

    return norm, partial(getattr(reference, kind), **axes)


# a norm and its reference, the shape of x, that of scale and bias
CASES: dict[str, tuple[tuple[Any, Any], tuple[int, ...], tuple[int, ...]]] = {
    "layer": (over("layer_norm"), (6, 40), (40,)),
    "rms": (over("rms_norm"), (6, 40), (40,)),
    "long rows": (over("layer_norm"), (3, 2500), (2500,)),
    "many rows": (over("layer_norm"), (700, 130), (130,)),
    "two axes": (over("layer_norm", reduction_axes=(-2, -1)), (6, 5, 8), (8,)),
    "parameters of each row": (over("layer_norm"), (9, 5, 8), (5, 8)),
    "one row": (over("rms_norm"), (40,), (40,)),
    "groups": (over("group_norm", num_groups=4, reduction_axes=()), (7, 24), (24,)),
    "groups over space": (over("group_norm", num_groups=4, reduction_axes=(1, 2)), (3, 9, 15, 24), (24,)),
    "channels first": (
        over("group_norm", num_groups=4, feature_axis=1, reduction_axes=(2, 3)),
        (3, 24, 9, 15),
        (24, 1, 1),
    ),
    "columns of matrices": (over("layer_norm", reduction_axes=1), (3, 30, 24), (24,)),
}
every_case = pytest.mark.parametrize("case", CASES)
MASKS = ("none", "rows", "elements")


def arguments(case: str, mask: str = "none") -> tuple[Any, Any, list[Any], Any, Any]:
    """Return the norm, its reference, x, scale and bias, a mask, a cotangent."""
    (f, want), shape, parameter = CASES[case]
    arrays = [draw(*shape, loc=2), draw(*parameter, seed=1, loc=1), draw(*parameter, seed=2)]
    rng = np.random.default_rng(3)
    masks = {
        "none": None,
        "rows": rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.6,
        "elements": rng.random(shape) < 0.6,
    }
    return f, want, arrays, masks[mask], draw(*shape, seed=4)


def kernels_of(f: Callable[..., Any], *args: Any) -> list[str]:
    """Return the kernels that a compiled f would call, of whatever they are."""
    return re.findall(r"@braindnorm_(forward|backward)\w*_v\d+\(", jax.jit(f).lower(*args).as_text())


def close(found: Any, wanted: Any, tolerance: float) -> None:
    np.testing.assert_allclose(
        np.asarray(found, np.float64), wanted, rtol=tolerance, atol=tolerance * max(np.max(np.abs(wanted)), 1)
    )


@pytest.mark.parametrize("mask", MASKS)
@every_case
def test_values_and_gradients(case: str, mask: str) -> None:
    """The gradient of x along three directions, by a complex step through the reference."""
    f, want, (x, scale, bias), valid, g = arguments(case, mask)
    given = x if valid is None else np.where(valid, x, np.nan)
    run = partial(f, mask=valid)
    assert kernels_of(run, given, scale, bias) == ["forward"]
    options = {"mask": True if valid is None else valid}
    close(run(given, scale, bias), want(x, scale=scale, bias=bias, **options), 2e-6)

    def loss(x: Any, scale: Any, bias: Any) -> jax.Array:
        return jnp.vdot(g, run(x, scale, bias))

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    assert kernels_of(gradient, given, scale, bias) == ["forward", "backward"]
    dx, dscale, dbias = gradient(given, scale, bias)
    z = want(x, **options)
    assert not np.any(np.asarray(dx)[~np.broadcast_to(options["mask"], x.shape)])
    for seed in (5, 6, 7):
        v = draw(*x.shape, seed=seed).astype(float)
        along = reference.directional(lambda x: want(x, scale=scale, bias=bias, **options), x, v)
        close(np.vdot(np.asarray(dx, np.float64), v), np.vdot(g, along), 2e-5)
    seen = np.where(options["mask"], g.astype(np.float64), 0)
    close(dscale, _sum_to(seen * z, scale.shape), 5e-6)
    close(dbias, _sum_to(seen, bias.shape), 5e-6)


def _sum_to(v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = (1,) * (v.ndim - len(shape)) + shape
    axes = tuple(axis for axis, n in enumerate(padded) if n == 1)
    return np.sum(v, axes).reshape(shape)


@every_case
def test_float64(case: str) -> None:
    with float64():
        f, want, arrays, valid, g = arguments(case, "elements")
        x, scale, bias = (np.asarray(v, np.float64) for v in arrays)
        assert kernels_of(f, x, scale, bias) == ["forward"]
        close(f(x, scale, bias, mask=valid), want(x, scale=scale, bias=bias, mask=valid), 1e-13)
        dx = jax.jit(jax.grad(lambda x: jnp.vdot(g, f(x, scale, bias, mask=valid))))(x)
        v = draw(*x.shape, seed=5).astype(float)
        along = reference.directional(lambda x: want(x, scale=scale, bias=bias, mask=valid), x, v)
        close(np.vdot(dx, v), np.vdot(g, along), 1e-11)


@every_case
def test_bfloat16(case: str) -> None:
    """The arithmetic is that of float32; the input, and its gradient, are rounded to eight binary digits."""
    f, want, (x, scale, bias), _, g = arguments(case)
    half = jnp.asarray(x, jnp.bfloat16)
    assert kernels_of(f, half, scale, bias) == ["forward"]
    exact = np.asarray(half, np.float64)
    close(f(half, scale, bias), want(exact, scale=scale, bias=bias), 5e-6)
    gradient = jax.jit(jax.grad(lambda x: jnp.vdot(g, f(x, scale, bias))))
    dx, wide = gradient(half), gradient(jnp.asarray(half, jnp.float32))
    assert dx.dtype == jnp.bfloat16
    np.testing.assert_allclose(dx.astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("mask", ["rows", "elements"])
def test_what_is_masked_is_read_nowhere(mask: str) -> None:
    """Not in x, nor in what comes back: there is no other pass over either, before the kernel or behind it."""
    f, _, (x, scale, bias), valid, g = arguments("layer", mask)

    @jax.jit
    def both(x: Any, scale: Any, bias: Any, g: Any) -> Any:
        y, pull = jax.vjp(partial(f, mask=valid), x, scale, bias)
        return y, pull(g)

    assert "select" not in both.lower(x, scale, bias, g).as_text()
    want, hidden = both(x, scale, bias, g), [np.where(valid, v, np.float32(np.nan)) for v in (x, g)]
    jax.tree.map(np.testing.assert_array_equal, both(hidden[0], scale, bias, hidden[1]), want)


def test_infinity_and_nan_are_rounded_to_themselves() -> None:
    x = jnp.ones((2, 16), jnp.bfloat16).at[0, 3].set(jnp.nan)
    g = jnp.ones((2, 16)).at[1, 2].set(jnp.inf)
    dx = jax.grad(lambda x: jnp.vdot(g, functional.rms_norm(x)))(x)
    assert jnp.all(jnp.isnan(dx[0]))
    assert not jnp.any(jnp.isfinite(dx[1]))


def test_what_is_not_finite_stays_in_its_row() -> None:
    x = draw(5, 40)
    x[1, 3], x[2, 4] = np.nan, np.inf
    y = functional.layer_norm(x)
    for row in (0, 3, 4):
        close(y[row], reference.layer_norm(x[row]), 2e-6)
    assert jnp.all(jnp.isnan(y[1]))
    assert jnp.all(jnp.isnan(y[2]))


@pytest.mark.parametrize("function", [functional.layer_norm, functional.rms_norm], ids=["layer", "rms"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_a_constant_row_is_finite(function: Any, epsilon: float) -> None:
    x = jnp.zeros((3, 40))
    run = partial(function, epsilon=epsilon)
    assert not jnp.any(run(x))
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(run(x)[0, :3])))(x)))


@pytest.mark.parametrize("size", [10, 40, 600, 5000])
def test_a_membrane_at_rest_keeps_its_digits(size: int) -> None:
    """-65 mV with a spread of 0.01: to within 1e-5, which by XLA takes `use_fast_variance=False`."""
    x = draw(50, size, loc=-65, scale=0.01)
    close(functional.layer_norm(x, epsilon=0), reference.layer_norm(x, epsilon=0), 1e-5)


def test_the_tangent_of_a_constant_shift_is_exactly_zero() -> None:
    for size in (41, 55, 83, 97, 784):
        x = draw(4, size)
        f = partial(functional.layer_norm, use_fast_variance=False)
        assert kernels_of(f, x) == ["forward"]
        assert not jnp.any(jax.jit(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])(x))  # noqa: B023


@every_case
def test_vmap_is_one_call_of_a_kernel(case: str) -> None:
    f, want, (x, scale, bias), _, g = arguments(case)
    several = np.stack([x, x + draw(*x.shape, seed=8), 2 * x], axis=1)

    def loss(x: Any, scale: Any, bias: Any) -> jax.Array:
        return jnp.sum(jax.vmap(f, (1, None, None))(x, scale, bias) * g)

    assert kernels_of(jax.vmap(f, (1, None, None)), several, scale, bias) == ["forward"]
    y = jax.jit(jax.vmap(f, (1, None, None), 1))(several, scale, bias)
    for i in range(3):
        close(y[:, i], want(several[:, i], scale=scale, bias=bias), 2e-6)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    assert kernels_of(gradient, several, scale, bias) == ["forward", "backward"]
    found = gradient(several, scale, bias)
    alone = jax.jit(jax.grad(lambda *p: jnp.vdot(g, f(*p)), (0, 1, 2)))
    each = [alone(several[:, i], scale, bias) for i in range(3)]
    close(found[0], np.stack([e[0] for e in each], 1), 2e-6)
    for i in (1, 2):
        close(found[i], np.sum([np.asarray(e[i], np.float64) for e in each], 0), 1e-5)


@every_case
@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_over_nothing(case: str, axis: int) -> None:
    """An axis of length 0 gives one of length 0, and gradients of what is shared that are 0."""
    f, _, (x, scale, bias), valid, _ = arguments(case, "elements")
    none = np.zeros((*x.shape[:axis], 0, *x.shape[axis:]), np.float32)
    over_none = jax.vmap(partial(f, mask=valid), (axis, None, None), axis)
    assert kernels_of(over_none, none, scale, bias) == []
    pull = jax.jit(lambda *p: (over_none(*p), jax.grad(lambda *p: jnp.sum(over_none(*p)), (0, 1, 2))(*p)))
    y, found = pull(none, scale, bias)
    assert y.shape == none.shape
    assert [v.shape for v in found] == [none.shape, scale.shape, bias.shape]
    assert not np.any(found[1])
    assert not np.any(found[2])


def test_without_jit() -> None:
    """As one debugs a model: every operation for itself."""
    f, want, (x, scale, bias), _, g = arguments("layer")
    with jax.disable_jit():
        close(f(x, scale, bias), want(x, scale=scale, bias=bias), 2e-6)
        found = jax.grad(lambda *p: jnp.vdot(g, f(*p)), (0, 1, 2))(x, scale, bias)
    for one, other in zip(found, jax.grad(lambda *p: jnp.vdot(g, f(*p)), (0, 1, 2))(x, scale, bias), strict=True):
        close(one, other, 1e-5)


def test_the_reverse_twice_transposed_is_the_forward() -> None:
    f, _, (x, scale, bias), _, g = arguments("layer")
    along = tuple(draw(*v.shape, seed=11 + i) for i, v in enumerate((x, scale, bias)))

    @jax.jit
    def both(*at: Any) -> Any:
        return jax.linear_transpose(jax.vjp(f, *at)[1], g)(along)[0], jax.jvp(f, at, along)[1]

    close(*both(x, scale, bias), 1e-5)


def test_the_gradient_of_epsilon() -> None:
    f, want, (x, scale, bias), _, g = arguments("layer")
    found = jax.jit(jax.grad(lambda e: jnp.vdot(g, f(x, scale, bias, epsilon=e))))(0.5)
    step = 1e-30j
    wanted = np.vdot(g, want(x, scale=scale, bias=bias, epsilon=0.5 + step).imag / 1e-30)
    close(found, wanted, 1e-5)


def test_constant_statistics() -> None:
    """The value is the kernel's; the derivative of the kernel, which is the whole one, is not taken."""
    x, g = draw(64, 40, loc=3.0), draw(64, 40, seed=1)
    norm = partial(functional.layer_norm, stop_statistics_gradient=True)
    assert "custom_call" in jax.jit(norm).lower(x).as_text()
    np.testing.assert_array_equal(jax.jit(norm)(x), jax.jit(functional.layer_norm)(x))
    y, pull = jax.vjp(norm, x)
    r = 1 / np.sqrt(x.astype(float).var(1, keepdims=True) + 1e-6)
    close(y, reference.layer_norm(x), 1e-5)
    close(pull(jnp.asarray(g))[0], g * r, 1e-5)


def test_the_result_does_not_depend_on_the_threads() -> None:
    """Chunks are taken by whichever thread is free; their sums are added in order."""
    x, g, scale = (jnp.asarray(v) for v in (draw(4000, 130), draw(4000, 130, seed=1), draw(130, seed=2)))
    gradient = jax.jit(jax.grad(lambda *p: jnp.vdot(g, functional.layer_norm(*p)), (0, 1)))
    first = gradient(x, scale)
    for _ in range(20):
        for a, b in zip(first, gradient(x, scale), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_not_asked_for_is_not_computed() -> None:
    """The gradient of x, where the parameters alone move."""
    f, want, (x, scale, bias), valid, g = arguments("layer", "elements")
    gradient = jax.jit(jax.grad(lambda scale, bias: jnp.vdot(g, f(x, scale, bias, mask=valid)), (0, 1)))
    text = gradient.lower(scale, bias).as_text()
    (call,) = [line for line in text.splitlines() if "@braindnorm_backward_v" in line]
    assert re.findall(r"tensor<(\w+)>", call.rpartition("->")[2]) == ["0xf32", "40xf32", "40xf32"]
    dscale, dbias = gradient(scale, bias)
    close(dscale, np.sum(np.where(valid, g * want(x, mask=valid), 0), 0), 5e-6)
    close(dbias, np.sum(np.where(valid, g, 0), 0), 5e-6)


def test_the_digits_of_a_row_do_not_depend_on_the_others() -> None:
    """Rows are taken several at once, and one by one at the end: in both ways."""

    @jax.jit
    def both(x: Any, g: Any) -> Any:
        y, pull = jax.vjp(functional.layer_norm, x)
        return y, *pull(g)

    for size in (43, 4100):
        x, g = draw(19, size), draw(19, size, seed=4)
        whole = both(x, g)
        for row in (0, 13, 18):
            for all_of_them, one in zip(whole, both(x[row : row + 1], g[row : row + 1]), strict=True):
                np.testing.assert_array_equal(all_of_them[row], one[0])


def test_it_keeps_x_and_three_numbers_a_row() -> None:
    steps, shape = 50, (64, 128)

    def loss(x: jax.Array, scale: jax.Array) -> jax.Array:
        def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
            return carry + jnp.sum(functional.layer_norm(row, scale) ** 2), None

        return jax.lax.scan(step, jnp.zeros(()), x)[0]

    compiled = jax.jit(jax.grad(loss)).lower(jnp.zeros((steps, *shape)), jnp.ones(shape[1])).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.1 * 4 * steps * shape[0] * (shape[1] + 3) + 65536


LEFT_ALONE: dict[str, Callable[[Any], Any]] = {
    "columns that are not centred": partial(functional.rms_norm, reduction_axes=0),
    "parameters along columns": lambda x: functional.layer_norm(x, jnp.ones((6, 1)), reduction_axes=1),
    "moments of rows": lambda x: functional.batch_norm(x, feature_axis=0)[0],
    "axes apart": partial(functional.layer_norm, reduction_axes=(0, 2)),
    "channels between": partial(functional.group_norm, num_groups=2, feature_axis=1, reduction_axes=(0, 2)),
    "normalized padding": lambda x: functional.layer_norm(x, mask=x > 0, masked_output="normalize"),
    "float16": lambda x: functional.layer_norm(x.astype(jnp.float16)),
    "nothing": lambda x: functional.layer_norm(x[:0]),
}


@pytest.mark.parametrize("call", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_they_leave_alone(call: Any) -> None:
    assert kernels_of(call, draw(4, 6, 40)) == []


def test_small_arrays_are_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until ``vmap`` makes one large array of them."""
    monkeypatch.setattr(_view, "SMALL", 2048)
    small, several = jnp.ones((16, 128)), jnp.ones((20, 16, 128))
    gradient = jax.grad(lambda x: jnp.sum(functional.layer_norm(x) ** 2))
    assert kernels_of(gradient, small) == []
    assert kernels_of(jax.vmap(gradient), several) == ["forward", "backward"]
    x = draw(6, 40)
    close(functional.layer_norm(x), reference.layer_norm(x), 2e-6)


def test_short_rows_and_columns_are_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_view, "SHORT", 16)
    monkeypatch.setattr(_view, "LOW", 8)
    _view.view_of.cache_clear()
    assert kernels_of(functional.layer_norm, jnp.ones((6000, 15))) == []
    assert kernels_of(functional.layer_norm, jnp.ones((6000, 16))) == ["forward"]
    of_columns = partial(functional.layer_norm, reduction_axes=0)
    assert kernels_of(of_columns, jnp.ones((7, 600))) == []
    assert kernels_of(of_columns, jnp.ones((8, 600))) == ["forward"]
