"""Law L6: how many digits are right."""

from functools import partial
from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, functional
from tests.support import reference
from tests.support.norms import CENTRED, NORMS, draw, float64

every_norm = pytest.mark.parametrize("kind", NORMS)
either_way = pytest.mark.parametrize("fast", [True, False], ids=["default", "compensated"])
# what a careful two-pass reaches in float32, and what the compensated form does
AT_REST = {True: 2e-3, False: 1e-5}


def at_rest(*shape: int, seed: int = 0) -> np.ndarray:
    """A membrane at rest: -65 mV with a spread of 0.01 mV, in float32."""
    return draw(*shape, seed=seed, loc=-65, scale=0.01)


@either_way
@pytest.mark.parametrize("shape", [(64, 100), (4, 784), (1, 70000), (300, 256), (2100, 1000)], ids=str)
@pytest.mark.parametrize("kind", CENTRED)
def test_a_membrane_at_rest(kind: str, shape: tuple[int, ...], fast: bool, record_property: Any) -> None:
    """Small arrays and large ones, which may be summed in different ways."""
    x = at_rest(*shape)
    error = np.abs(NORMS[kind].function(x, use_fast_variance=fast, epsilon=0) - NORMS[kind].reference(x, epsilon=0))
    record_property("error", float(error.max()))
    assert error.max() < AT_REST[fast]


@pytest.mark.parametrize("size", [8, 10, 20, 32, 33, 40, 64, 80, 96, 99, 100, 128, 200, 300, 400, 512, 600])
def test_a_membrane_at_rest_within_a_program(size: int) -> None:
    """XLA may take what makes the numbers into the sums, and then sums them in another way."""
    x = at_rest(64, size)
    y = jax.jit(lambda v: functional.layer_norm(-v, epsilon=0))(-x)
    assert np.abs(y - reference.layer_norm(x, epsilon=0)).max() < AT_REST[True]


@either_way
@pytest.mark.parametrize("kind", CENTRED)
def test_a_membrane_at_rest_under_a_mask_and_jit(kind: str, fast: bool, record_property: Any) -> None:
    x = at_rest(64, 100)
    mask = np.random.default_rng(1).random(x.shape) < 0.7

    @jax.jit
    def call(x: Any, mask: Any) -> Any:
        return NORMS[kind].function(x, mask=mask, use_fast_variance=fast, epsilon=0)

    error = np.abs(call(np.where(mask, x, np.nan), mask) - NORMS[kind].reference(x, mask=mask, epsilon=0)).max()
    record_property("error", float(error))
    assert error < AT_REST[fast]


def of_its_spread(x: np.ndarray, mask: Any = None) -> np.ndarray:
    """Return z in float64 for rows that may have no spread at all: those are 0."""
    mask = np.broadcast_to(True if mask is None else mask, x.shape)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    deviation = np.where(mask, x - np.where(mask, x.astype(float), 0).sum(-1, keepdims=True) / count, 0)
    spread = np.sqrt((deviation**2).sum(-1, keepdims=True) / count)
    return np.asarray(deviation / np.where(spread > 0, spread, 1))


SMALL = [2, 3, 5, 8, 16, 33, 64]


@either_way
@pytest.mark.parametrize("size", SMALL)
def test_small_groups_at_rest(size: int, fast: bool, record_property: Any) -> None:
    """Some of many draws have spreads far below 0.01 mV, where the rounding of a mean would be all that is seen."""
    x, n = at_rest(12000, size), 12000
    want = of_its_spread(x)
    kept: dict[str, Any] = {"use_fast_variance": fast, "epsilon": 0}
    layer, group = (partial(f, **kept) for f in (functional.layer_norm, functional.group_norm))
    by_channel = np.moveaxis(x.reshape(n // 4, 4, size), 1, 2)
    errors = {
        "called": np.abs(layer(x) - want),
        "in a program": np.abs(jax.jit(lambda v: layer(-v))(-x) - want),
        "differentiated": np.abs(jax.jit(lambda v: jax.vjp(layer, v)[0])(x) - want),
        "along columns": np.abs(layer(x.T, reduction_axes=0) - want.T),
        "groups of channels": np.abs(group(x.reshape(n // 4, -1), 4) - want.reshape(n // 4, -1)),
        "groups over space": np.abs(np.moveaxis(group(by_channel, 4), 2, 1).reshape(x.shape) - want),
        "under a mask": np.abs(layer(x, mask=np.ones(x.shape, bool)) - want),
    }
    record_property("error", {way: float(error.max()) for way, error in errors.items()})
    assert {way for way, error in errors.items() if not error.max() < AT_REST[fast]} == set()


@either_way
@pytest.mark.parametrize("size", [4, 20, 100, 300])
def test_few_valid_elements_at_rest(size: int, fast: bool) -> None:
    """However large a group, a mask may leave two of its elements."""
    x = at_rest(4000, size)
    rng = np.random.default_rng(1)
    mask = rng.random(x.shape) < rng.uniform(0, 8 / size, (4000, 1))
    want = of_its_spread(x, mask)
    layer = jax.jit(partial(functional.layer_norm, use_fast_variance=fast, epsilon=0))
    assert np.abs(layer(x, mask=mask) - want).max() < AT_REST[fast]
    rows = (2000, 2 * size)
    grouped = functional.group_norm(x.reshape(rows), 2, mask=mask.reshape(rows), use_fast_variance=fast, epsilon=0)
    assert np.abs(grouped - want.reshape(rows)).max() < AT_REST[fast]


@either_way
@pytest.mark.parametrize("size", [2, 4, 16])
def test_small_groups_at_rest_across_devices(size: int, fast: bool) -> None:
    x = at_rest(6000, 2, size // 2)
    mask = np.random.default_rng(1).random(x.shape) < 0.7
    norm = partial(functional.layer_norm, axis_name="device", use_fast_variance=fast, epsilon=0)
    shared = jax.vmap(norm, axis_name="device", in_axes=1, out_axes=1)
    masked = jax.vmap(lambda x, m: norm(x, mask=m), axis_name="device", in_axes=1, out_axes=1)
    rows = (6000, size)
    assert np.abs(shared(x).reshape(rows) - of_its_spread(x.reshape(rows))).max() < AT_REST[fast]
    want = of_its_spread(x.reshape(rows), mask.reshape(rows))
    assert np.abs(masked(x, mask).reshape(rows) - want).max() < AT_REST[fast]


@pytest.mark.parametrize("size", [4, 20, 64])
def test_a_small_group_whose_first_element_is_far_away(size: int) -> None:
    x = at_rest(2000, size)
    x[:, 0] = np.random.default_rng(1).choice([1e4, -1e6, 0.0, 65.0], 2000)
    np.testing.assert_allclose(functional.layer_norm(x, epsilon=0), of_its_spread(x), rtol=1e-5, atol=1e-5)


@either_way
@pytest.mark.parametrize("axes", [0, 1, (0, 1), (0, 2), (0, 1, 2)], ids=str)
def test_a_membrane_at_rest_over_any_axes(axes: Any, fast: bool) -> None:
    x = at_rest(20, 12, 16)
    y = functional.layer_norm(x, reduction_axes=axes, use_fast_variance=fast, epsilon=0)
    assert np.abs(y - reference.layer_norm(x, axes, epsilon=0)).max() < AT_REST[fast]


@either_way
def test_over_no_axis_every_element_is_its_own_group(fast: bool) -> None:
    x = at_rest(20, 12)
    assert not jnp.any(functional.layer_norm(x, reduction_axes=(), use_fast_variance=fast))
    assert not jnp.any(functional.layer_norm(x, reduction_axes=(), use_fast_variance=fast, mask=x < -65))


@either_way
def test_a_membrane_at_rest_over_space_and_channels(fast: bool) -> None:
    x = at_rest(3, 8, 8, 32)
    y = functional.group_norm(x, 4, use_fast_variance=fast, epsilon=0)
    assert np.abs(y - reference.group_norm(x, 4, reduction_axes=(1, 2), epsilon=0)).max() < AT_REST[fast]
    first = functional.group_norm(np.moveaxis(x, -1, 1), 4, feature_axis=1, use_fast_variance=fast, epsilon=0)
    want = np.moveaxis(reference.group_norm(x, 4, reduction_axes=(1, 2), epsilon=0), -1, 1)
    assert np.abs(first - want).max() < AT_REST[fast]


@either_way
@pytest.mark.parametrize("far", ["drift", "outlier", "step"])
def test_statistics_over_time_of_what_begins_elsewhere(far: str, fast: bool) -> None:
    """The first samples are no guide to the rest: they drift away, or one is an artefact, or the cell depolarizes."""
    x = at_rest(2, 320, 16).astype(float)
    x[:, :20] += {"drift": np.linspace(-0.3, 0, 20)[:, None], "step": 30.0, "outlier": 0.0}[far]
    if far == "outlier":
        x[:, 3, 5] = 1e4
    x = x.astype(np.float32)
    layer = functional.layer_norm(x, reduction_axes=1, use_fast_variance=fast, epsilon=0)
    group = functional.group_norm(x, 4, reduction_axes=1, use_fast_variance=fast, epsilon=0)
    for y, want in (
        (layer, reference.layer_norm(x, 1, epsilon=0)),
        (group, reference.group_norm(x, 4, reduction_axes=(1,), epsilon=0)),
    ):  # of the outlier itself as many digits are right, and it is far from 0
        assert np.all(np.abs(y - want) < AT_REST[fast] * np.maximum(1, np.abs(want)))


@either_way
@pytest.mark.parametrize("shape", [(3, 6), (2100, 1000)], ids=str)
@every_norm
def test_a_group_of_zeros_without_epsilon(kind: str, shape: tuple[int, ...], fast: bool) -> None:
    """It is 0, in small arrays and large ones, and so is its gradient; what moves in its neighbour stays finite."""
    x = draw(*shape)
    x[0] = 0
    run = partial(NORMS[kind].function, use_fast_variance=fast, epsilon=0)
    assert np.all(np.asarray(run(x))[0] == 0)
    y, pull = jax.vjp(run, jnp.asarray(x))
    (gx,) = pull(jnp.ones_like(y))
    assert np.all(y[0] == 0)
    assert np.all(gx[0] == 0)
    assert np.all(np.isfinite(gx))


@either_way
def test_gradients_of_a_membrane_at_rest(fast: bool) -> None:
    """Relative to the largest, since they scale with 1 over the spread."""
    x, g = at_rest(4, 100), draw(4, 100, seed=1)
    (gx,) = jax.vjp(lambda x: functional.layer_norm(x, use_fast_variance=fast), jnp.asarray(x))[1](jnp.asarray(g))
    want = reference.jacobian(lambda x: np.sum(reference.layer_norm(x) * g), x)
    assert np.abs(gx - want).max() < AT_REST[fast] * np.abs(want).max()


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", CENTRED)
def test_the_compensated_form_at_any_offset(kind: str, offset: float) -> None:
    """As float32 holds them, the numbers are normalized to float32's own rounding."""
    x = (draw(16, 100).astype(float) * max(offset, 1.0) * 1e-4 + offset).astype(np.float32)
    y = NORMS[kind].function(x, use_fast_variance=False, epsilon=0)
    np.testing.assert_allclose(y, NORMS[kind].reference(x, epsilon=0), rtol=2e-5, atol=1e-5)


@either_way
@every_norm
def test_plain_data(kind: str, fast: bool) -> None:
    x = draw(64, 100, loc=0.3, scale=2)
    np.testing.assert_allclose(
        NORMS[kind].function(x, use_fast_variance=fast), NORMS[kind].reference(x), rtol=1e-5, atol=2e-6
    )


@either_way
@every_norm
def test_float16_near_its_maximum(kind: str, fast: bool) -> None:
    """Neither the sum nor the squares fit float16, whose maximum is 65504; half a unit in the last place is allowed."""
    x = draw(16, 100, loc=60000, scale=2000).clip(50000, 65504).astype(np.float16)
    y = NORMS[kind].function(x, use_fast_variance=fast)
    assert y.dtype == jnp.float16
    want = NORMS[kind].reference(x)
    np.testing.assert_allclose(np.asarray(y, float), want, rtol=2**-11 * 1.01, atol=1e-5)


@either_way
@every_norm
def test_bfloat16(kind: str, fast: bool) -> None:
    x = jnp.asarray(draw(16, 100, loc=3), jnp.bfloat16)
    y = NORMS[kind].function(x, use_fast_variance=fast)
    assert y.dtype == jnp.bfloat16
    want = NORMS[kind].reference(np.asarray(x, float))
    np.testing.assert_allclose(np.asarray(y, float), want, rtol=2**-8 * 1.01, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_norm
def test_half_precision_gradients(kind: str, dtype: str) -> None:
    x, g = jnp.asarray(draw(4, 100), dtype), jnp.asarray(draw(4, 100, seed=1), dtype)
    (gx,) = jax.vjp(NORMS[kind].function, x)[1](g)
    assert gx.dtype == x.dtype
    wide = np.asarray(g, float)
    want = reference.jacobian(lambda x: np.sum(NORMS[kind].reference(x) * wide), np.asarray(x, float))
    rounding = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(np.asarray(gx, float), want, rtol=1.01 * rounding, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_change_of_prefix_is_rounded_in_float32(dtype: str) -> None:
    """70 nA are 70000 pA, more than float16 holds."""
    x = jnp.asarray(draw(2, 50, loc=70, scale=5), dtype)
    declared = functional.layer_norm(x * u.nA, unit=u.pA, out_unit=u.UNITLESS, epsilon=0)
    assert declared.dtype == x.dtype
    rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 1e-5}[dtype]
    want = reference.layer_norm(np.asarray(x, float), epsilon=0)
    np.testing.assert_allclose(np.asarray(declared, float), want, rtol=1.01 * rounding, atol=2e-5)


@either_way
@every_norm
def test_float64(kind: str, fast: bool) -> None:
    x = draw(16, 100).astype(float) * 0.01 - 65
    with float64():
        y = NORMS[kind].function(x, use_fast_variance=fast)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, NORMS[kind].reference(x), rtol=1e-9, atol=1e-11)


def test_moments_of_a_membrane_at_rest() -> None:
    x = at_rest(16, 100)
    _, mean, var = functional.moments(x)
    np.testing.assert_allclose(mean, x.astype(float).mean(-1), rtol=2e-7)
    np.testing.assert_allclose(var, x.astype(float).var(-1), rtol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 1e-20])
def test_small_spreads_without_epsilon(epsilon: float) -> None:
    x = draw(4, 100, scale=1e-8)
    y = LayerNorm(100, epsilon=epsilon)(x)
    np.testing.assert_allclose(y, reference.layer_norm(x, epsilon=epsilon), rtol=1e-4, atol=1e-5)
