"""The kernels of columns: batch norms in training, and the statistics that they keep."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import PartitionSpec as P

from braindnorm import BatchNorm, cpu_kernels, functional
from tests.cpu_kernels.test_kernels import MASKS, close, kernels_of
from tests.support import reference
from tests.support.kernels import kernels, needs_compiler
from tests.support.norms import draw, float64

pytestmark = needs_compiler

SHAPE = (60, 40, 33)  # time, batch, channels: several chunks of rows
FORWARD, GRADIENT = ["forward"], ["forward", "backward"]


@pytest.fixture(autouse=True)
def in_use() -> Iterator[None]:
    with kernels():
        yield


def mask_of(kind: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(3)
    if kind == "none":
        return None
    mask = rng.random((*shape[:-1], 1) if kind == "rows" else shape) < 0.6
    mask[:9] = False  # no block of rows begins with something valid
    return mask


def wanted(x: Any, mask: Any, **options: Any) -> tuple[np.ndarray, ...]:
    """Return y, the count, the mean and the variance of each column."""
    valid = np.broadcast_to(True if mask is None else mask, x.shape)
    each = (v.reshape(-1, x.shape[-1]).T for v in (x.astype(float), valid))
    columns = [column[some] for column, some in zip(*each, strict=True)]
    moments = (np.array([f(c) for c in columns]) for f in (len, np.mean, np.var))
    return reference.layer_norm(x, tuple(range(x.ndim - 1)), mask=valid, **options), *moments


@pytest.mark.parametrize("mask", MASKS)
def test_a_membrane_at_rest(mask: str) -> None:
    """-65 mV with a spread of 0.01 mV: values, moments and gradients, for any content of the padding."""
    x, g = draw(*SHAPE, loc=-65, scale=0.01), draw(*SHAPE, seed=4)
    scale, bias, valid = draw(33, seed=1, loc=1), draw(33, seed=2), mask_of(mask, SHAPE)
    given = x if valid is None else np.where(valid, x, np.nan)

    @jax.jit
    def run(x: Any, scale: Any, bias: Any) -> Any:
        norm = partial(functional.batch_norm, mask=valid, epsilon=1e-9)
        y, pull, statistics = jax.vjp(norm, x, scale, bias, has_aux=True)
        return y, statistics, pull(jnp.asarray(g))

    assert kernels_of(run, given, scale, bias) == GRADIENT
    y, statistics, (dx, dscale, dbias) = run(given, scale, bias)
    value, count, mean, var = wanted(x, valid, scale=scale, bias=bias, epsilon=1e-9)
    close(y, value, 2e-6)
    np.testing.assert_array_equal(np.broadcast_to(statistics.count, count.shape), count)
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(statistics.var, var, rtol=2e-6)
    seen = g.astype(float) if valid is None else np.where(valid, g, 0.0)
    z = wanted(x, valid, epsilon=1e-9)[0]
    close(dscale, np.sum(seen * z, (0, 1)), 1e-6)
    close(dbias, np.sum(seen, (0, 1)), 1e-6)
    r, slope = 1 / np.sqrt(var + 1e-9), seen * scale
    wanted_dx = r * (slope - np.sum(slope, (0, 1)) / count - z * np.sum(slope * z, (0, 1)) / count)
    close(dx, wanted_dx if valid is None else np.where(valid, wanted_dx, 0), 2e-6)
    assert valid is None or not np.any(np.asarray(dx)[~np.broadcast_to(valid, SHAPE)])


def test_what_lies_apart_in_one_column() -> None:
    """A transient, a constant, nothing valid, NaN: each in a column of its own."""
    x = draw(2000, 20)
    x[:70, 0] += 1e4
    x[:, 1] = -65.4321
    x[3, 2] = np.nan
    valid = np.ones(x.shape, bool)
    valid[:, 4] = valid[1000:, 5] = False
    assert kernels_of(lambda x: functional.batch_norm(x, mask=valid), x) == FORWARD
    for mask in (None, valid):
        y, (_, mean, var) = functional.batch_norm(x, mask=mask, epsilon=0)
        some = [0, 3, *(() if mask is None else (5,)), 19]
        value, _, wanted_mean, wanted_var = wanted(x[:, some], None if mask is None else mask[:, some], epsilon=0)
        close(y[:, some], value, 1e-5)
        np.testing.assert_allclose(mean[jnp.array(some)], wanted_mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(var[jnp.array(some)], wanted_var, rtol=1e-6)
        assert (mean[1], var[1]) == (np.float32(-65.4321), 0)
        assert not jnp.any(y[:, 1])
        assert jnp.all(jnp.isnan(y[:, 2]))
    assert not jnp.any(y[:, 4])
    assert (mean[4], var[4]) == (0, 0)


def test_columns_of_float64() -> None:
    with float64():
        x = np.asarray(draw(90, 21), np.float64)
        y, (_, mean, var) = functional.batch_norm(x)
        value, _, wanted_mean, wanted_var = wanted(x, None)
        for found, exact in ((y, value), (mean, wanted_mean), (var, wanted_var)):
            close(found, exact, 1e-13)


def test_columns_do_not_depend_on_the_threads() -> None:
    """Two passes of tasks are taken by whichever thread is free; their moments and sums are merged in order."""
    x, g = jnp.asarray(draw(3000, 130)), jnp.asarray(draw(3000, 130, seed=1))

    @jax.jit
    def run(x: Any) -> Any:
        y, pull, statistics = jax.vjp(functional.batch_norm, x, has_aux=True)
        return y, statistics, pull(g)

    first = jax.tree.leaves(run(x))
    for _ in range(20):
        for a, b in zip(first, jax.tree.leaves(run(x)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_derivatives_of_columns_beyond_the_first() -> None:
    """Forward mode, and the Hessian along a direction: by plain JAX, from what the kernels saved."""
    x, g, v = draw(70, 21), draw(70, 21, seed=1), draw(70, 21, seed=2)

    def loss(x: Any) -> jax.Array:
        y, statistics = functional.batch_norm(x)
        return jnp.vdot(g, y**2) + jnp.sum(statistics.mean + statistics.var)  # without a gradient

    def gradient(x: Any) -> np.ndarray:  # complex too
        value = reference.layer_norm(x, 0)
        r = 1 / np.sqrt(np.mean((x - np.mean(x, 0)) ** 2, 0) + 1e-6)
        slope = 2 * g.astype(float) * value
        return r * (slope - np.mean(slope, 0) - value * np.mean(slope * value, 0))

    @jax.jit
    def run(x: Any) -> Any:
        return jax.jvp(loss, (x,), (v,))[1], jax.jvp(jax.grad(loss), (x,), (v,))[1]

    along, hessian = run(x)
    assert kernels_of(run, x)[0] == "forward"
    close(along, np.vdot(gradient(x.astype(float)), v), 1e-5)
    close(hessian, reference.directional(gradient, x, v.astype(float)), 1e-5)


def test_constant_statistics_of_columns() -> None:
    """Values by the kernels; a derivative of each element, by plain JAX."""
    x, g = draw(70, 21, loc=3), draw(70, 21, seed=1)
    norm = partial(functional.batch_norm, stop_statistics_gradient=True)

    def run(x: Any) -> Any:
        y, pull, statistics = jax.vjp(norm, x, has_aux=True)
        return y, statistics.var, pull(jnp.asarray(g))[0]

    assert kernels_of(norm, x) == FORWARD
    assert kernels_of(run, x) == []
    y, var, dx = jax.jit(run)(x)
    value, _, _, wanted_var = wanted(x, None)
    found = (y, var, dx, *jax.tree.leaves(norm(x))[::3])
    for one, exact in zip(found, (value, wanted_var, g / np.sqrt(wanted_var + 1e-6), value, wanted_var), strict=True):
        close(one, exact, 1e-6)


def test_a_batch_norm_in_a_loop() -> None:
    """What is kept after a step each, of data in half precision, too."""
    xs = jnp.asarray(draw(5, 64, 24, loc=-65), jnp.bfloat16)
    norm = BatchNorm(24, momentum=0.75)
    mean, var = np.zeros(24), np.ones(24)
    for x in np.asarray(xs, float):
        mean, var = 0.75 * mean + 0.25 * x.mean(0), 0.75 * var + 0.25 * x.var(0)
    with brainstate.environ.context(fit=True):
        ys = brainstate.transform.for_loop(norm, xs)
    close(ys, np.stack([wanted(np.asarray(x, float), None, epsilon=1e-5)[0] for x in xs]), 2**-8)
    close(norm.running_mean.value, mean, 1e-6)
    close(norm.running_var.value, var, 1e-6)


def test_where_columns_have_no_kernels() -> None:
    """Exported, divided among devices, over an axis of them, switched off."""
    x = draw(64, 24)

    def norm(x: Any, **options: Any) -> Any:
        return functional.batch_norm(x, **options)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.shard_map(partial(norm, axis_name="batch"), mesh=mesh, in_specs=P("batch"), out_specs=(P("batch"), P()))
    divided = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("batch")))
    assert kernels_of(norm, x) == FORWARD
    assert kernels_of(over, x) == []
    assert kernels_of(norm, divided) == []
    assert "@braindnorm_" not in export.export(jax.jit(norm))(x).mlir_module()
    with cpu_kernels.disabled():
        assert kernels_of(lambda x: norm(x), x) == []
    value, _, mean, _ = wanted(x, None)
    y, statistics = jax.jit(norm)(divided)
    close(y, value, 2e-6)
    close(statistics.mean, mean, 1e-6)


@pytest.mark.parametrize("mask", ["none", "rows", "each"])
def test_what_is_not_finite_is_kept_and_shown_as_without_kernels(mask: str) -> None:
    """Beside float64 numpy: the mean of a column with inf is inf, its variance and all of y are NaN."""
    x = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    for channel, values in enumerate([(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf), (np.inf, np.nan)]):
        x[[0, 690][: len(values)], channel] = values
    x[[300, 690], 6] = np.inf
    valid = np.broadcast_to(True if mask == "none" else mask_of(mask, x.shape), x.shape) | ~np.isfinite(x)
    if mask == "rows":
        valid = np.broadcast_to(valid.any(1, keepdims=True), x.shape)
    wide = np.where(valid, x.astype(float), 0)
    with np.errstate(invalid="ignore"):
        mean = wide.sum(0) / valid.sum(0)
        var = np.where(valid, (x - mean) ** 2, 0).sum(0) / valid.sum(0)
    given = None if mask == "none" else valid[:, :1] if mask == "rows" else valid
    for fast in (True, False):

        def run(x: Any, fast: bool = fast) -> Any:
            return functional.batch_norm(x, mask=given, use_fast_variance=fast), functional.moments(x, 0, mask=given)

        found = [jax.jit(run)(x)]
        with cpu_kernels.disabled():
            found.append(jax.jit(partial(run))(x))
        for (y, kept), moments in found:
            assert np.array_equal(np.isnan(y), np.isnan(var) & valid)
            for one in (kept, moments):
                assert np.allclose(one.mean, mean, atol=1e-6, equal_nan=True)
                assert np.allclose(one.var, var, atol=1e-5, equal_nan=True)


def test_nan_is_seen_in_all_of_its_group_without_a_mean() -> None:
    """A row or column of RMSNorm; one with inf is 0 beside it, as inf is the root of its mean square."""
    x = np.random.default_rng(0).normal(size=(300, 36)).astype(np.float32)
    x[2, 1], x[5, 7] = np.nan, np.inf
    for axis in (0, 1):
        with np.errstate(invalid="ignore"):
            expected = x / np.sqrt((x.astype(float) ** 2).mean(axis, keepdims=True) + 1e-6)

        def run(x: Any, axis: int = axis) -> Any:
            return functional.rms_norm(x, reduction_axes=axis)

        assert np.allclose(jax.jit(run)(x), expected, atol=1e-5, equal_nan=True)
        with cpu_kernels.disabled():
            assert np.allclose(jax.jit(partial(run))(x), expected, atol=1e-5, equal_nan=True)
