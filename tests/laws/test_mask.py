"""Law L3: padding changes nothing, whatever it holds."""

from typing import Any

import brainevent
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from braindnorm import GroupNorm, functional
from braindnorm.masks import from_lengths
from tests.support import reference
from tests.support.norms import CENTRED, LAYERS, NORMS, draw, float64, parameters, randomize, weight_of

T, B, C = 5, 3, 4
every_norm = pytest.mark.parametrize("kind", NORMS)
FILLS = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "1e30": 1e30, "zero": 0.0}


def random_mask(seed: int = 7) -> np.ndarray:
    """Mask elements here and there, some rows whole and one step whole."""
    mask = np.random.default_rng(seed).random((T, B, C)) < 0.6
    mask[1, 2], mask[3] = False, False
    return mask


def padded(mask: np.ndarray, fill: float = np.nan) -> np.ndarray:
    return np.where(mask, draw(T, B, C, seed=1, loc=-65, scale=5), np.float32(fill))


def grad_of_both(layer: Any, x: Any, mask: Any, weights: Any) -> Any:
    """Return the gradients of a loss in the parameters and in x."""

    def loss(x: Any) -> jax.Array:
        return jnp.sum(u.get_mantissa(layer(x, mask=mask)) * weights)

    return brainstate.transform.grad(loss, weight_of(layer), argnums=0)(x)


def jitted_grad(layer: Any, x: Any, mask: Any, weights: Any) -> Any:
    return brainstate.transform.jit(lambda x: grad_of_both(layer, x, mask, weights))(x)


@pytest.mark.parametrize("fill", FILLS)
@every_norm
def test_values_are_those_of_the_valid_elements(kind: str, fill: str) -> None:
    mask = random_mask()
    layer = randomize(NORMS[kind].layer(C))
    y = layer(padded(mask, FILLS[fill]), mask=mask)
    want = NORMS[kind].reference(padded(mask, 0), mask=mask, **parameters(layer))
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)
    assert (np.asarray(y)[~mask] == 0).all()


@pytest.mark.parametrize("fill", FILLS)
@every_norm
def test_gradients_are_those_of_the_valid_elements(kind: str, fill: str) -> None:
    """In float64 against the reference, by a complex step; exactly 0 at what is masked."""
    mask, weights = random_mask(), draw(T, B, C, seed=2)
    with float64():
        layer = randomize(NORMS[kind].layer(C))
        states, gx = jitted_grad(layer, padded(mask, FILLS[fill]).astype(float), mask, weights)
    values = parameters(layer)
    options = {"mask": mask, "epsilon": 1e-6}

    def loss(x: Any, **values: Any) -> Any:
        return np.sum(NORMS[kind].reference(x, **options, **values) * weights)

    want = reference.jacobian(lambda x: loss(x, **values), padded(mask, 0))
    np.testing.assert_allclose(gx, want, rtol=1e-8, atol=1e-10)
    assert (np.asarray(gx)[~mask] == 0).all()
    for key, got in states.items():
        numeric = reference.jacobian(lambda v, key=key: loss(padded(mask, 0), **{**values, key: v}), values[key])
        np.testing.assert_allclose(got, numeric, rtol=1e-8, atol=1e-10)


@every_norm
def test_padded_trials_equal_the_trials_alone(kind: str) -> None:
    """Every trial is normalized alone and unpadded, over time and channels; then all of them padded."""
    lengths = np.array([5, 2, 3])
    mask = np.asarray(from_lengths(lengths, T))[..., None]
    options = {"reduction_axes": (0, -1)} if kind != "GroupNorm" else {"reduction_axes": 0, "num_groups": 2}
    layer = randomize(LAYERS[kind](C, **options))
    x, weights = padded(np.broadcast_to(mask, (T, B, C))), draw(T, B, C, seed=2)

    @jax.jit
    def run(x: Any, g: Any, mask: Any = None) -> Any:
        y, pull = jax.vjp(lambda x: layer(x, mask=mask), x)
        return y, pull(g)[0]

    y, gx = jax.vmap(run, 1, 1)(x, weights, mask)
    for trial, length in enumerate(lengths):
        alone, want = run(x[:length, trial], weights[:length, trial])
        np.testing.assert_allclose(y[:length, trial], alone, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(gx[:length, trial], want, rtol=1e-4, atol=1e-5)
        assert (gx[length:, trial] == 0).all()


# axes of (T, B, C) that the statistics run over, time among them or not
AXES = [-1, 0, 1, (0, 2), (0, 1), (-2, -1), (0, 1, 2), ()]


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("shape", [(T, B, C), (T, B, 1), (T, 1, 1), (1, 1, C), (1, B, 1)], ids=str)
def test_any_axes_and_any_mask(axes: Any, shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(3).random(shape) < 0.6
    x = padded(np.broadcast_to(mask, (T, B, C)))
    seen = np.where(mask, x, 0)
    for norm, want in ((functional.layer_norm, reference.layer_norm), (functional.rms_norm, reference.rms_norm)):
        y = norm(x, reduction_axes=axes, mask=mask)
        np.testing.assert_allclose(y, want(seen, axes, mask=mask), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("channel", [-1, 0, 1])
@pytest.mark.parametrize("axes", [(), 0, -1, (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("masked", ["elements", "time", "channels"])
def test_any_axes_and_any_mask_in_groups(masked: str, axes: Any, channel: int) -> None:
    shape = [6, 6, 6]
    if masked == "time":
        shape[1:] = 1, 1
    elif masked == "channels":
        shape = [1, 1, 1]
        shape[channel] = 6
    mask = np.random.default_rng(3).random(shape) < 0.6
    x = np.where(mask, draw(6, 6, 6, seed=1, loc=-65, scale=5), np.nan)
    y = functional.group_norm(x, 3, feature_axis=channel, reduction_axes=axes, mask=mask, epsilon=1.0)
    want = reference.group_norm(np.where(mask, x, 0), 3, channel, axes, mask=mask, epsilon=1.0)
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_the_default_axes_of_group_norm_leave_the_batch_out() -> None:
    lengths = np.array([6, 2, 4])
    mask = np.swapaxes(from_lengths(lengths, 6), 0, 1)[..., None]
    x = np.where(mask, draw(3, 6, 6, seed=1), np.nan)
    y = GroupNorm(6, num_groups=2)(x, mask=mask)
    for trial, length in enumerate(lengths):
        want = reference.group_norm(x[trial, :length], 2, reduction_axes=0)
        np.testing.assert_allclose(y[trial, :length], want, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(mask=hnp.arrays(bool, (T, B, C)), fill=st.sampled_from([np.nan, -np.inf, 1e30, 0.0]))
@every_norm
def test_every_mask(kind: str, mask: np.ndarray, fill: float) -> None:
    y, gx = EVERY_MASK[kind](padded(mask, fill), mask)
    want = NORMS[kind].reference(padded(mask, 0), mask=mask)
    np.testing.assert_allclose(y, want, rtol=5e-5, atol=5e-5)
    assert (np.asarray(y)[~mask] == 0).all()
    assert np.isfinite(gx).all()
    assert (np.asarray(gx)[~mask] == 0).all()


def value_and_gradient(kind: str) -> Any:
    @jax.jit
    def call(x: Any, mask: Any) -> Any:
        y, pull = jax.vjp(lambda x: NORMS[kind].function(x, mask=mask), x)
        return y, pull(jnp.asarray(draw(T, B, C, seed=2)))[0]

    return call


EVERY_MASK = {kind: value_and_gradient(kind) for kind in NORMS}


# Forms of a mask.

FORMS: dict[str, Any] = {
    "booleans": lambda m: jnp.asarray(m),
    "integers": lambda m: jnp.asarray(m, jnp.int32),
    "small integers": lambda m: m.astype(np.uint8),
    "any integer but 0": lambda m: m * np.int16(-3),
    "numpy": lambda m: m,
    "list": lambda m: m.tolist(),
    "list of integers": lambda m: m.astype(int).tolist(),
    "events": lambda m: brainevent.BinaryArray(jnp.asarray(m)),
    "float events": lambda m: brainevent.BinaryArray(jnp.asarray(m, jnp.float32)),
    "state": lambda m: brainstate.HiddenState(jnp.asarray(m)),
}


@pytest.mark.parametrize("form", FORMS)
@every_norm
def test_every_form_of_a_mask(kind: str, form: str) -> None:
    mask = random_mask()
    layer = NORMS[kind].layer(C)
    np.testing.assert_array_equal(layer(padded(mask), mask=FORMS[form](mask)), layer(padded(mask), mask=mask))


@every_norm
def test_a_mask_of_fewer_axes_is_aligned_from_the_right(kind: str) -> None:
    x, mask = draw(T, B, C), np.array([1, 1, 0, 1])
    layer = NORMS[kind].layer(C)
    full = np.broadcast_to(mask, x.shape)
    np.testing.assert_allclose(layer(x, mask=mask), layer(x, mask=full), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x, mask=mask[None]), layer(x, mask=full), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x, mask=True), layer(x), rtol=1e-5, atol=1e-6)
    assert (layer(x, mask=0) == 0).all()


@every_norm
def test_all_valid_is_no_mask(kind: str) -> None:
    layer = randomize(NORMS[kind].layer(C))
    x = draw(T, B, C)
    np.testing.assert_allclose(layer(x, mask=np.ones_like(x, bool)), layer(x), rtol=1e-6, atol=1e-6)


# What comes out at masked positions.


@every_norm
def test_input_passes_through(kind: str) -> None:
    mask = random_mask()
    x = padded(mask)
    layer = randomize(NORMS[kind].layer(C, masked_output="input"))
    y = np.asarray(layer(x, mask=mask))
    np.testing.assert_array_equal(y[~mask], x[~mask])
    np.testing.assert_array_equal(y[mask], np.asarray(randomize(NORMS[kind].layer(C))(x, mask=mask))[mask])


@every_norm
def test_gradients_stay_finite_where_input_passes_through(kind: str) -> None:
    """The gradient at masked positions is then that of the identity."""
    mask, weights = random_mask(), draw(T, B, C, seed=2)
    passing, zero = (randomize(NORMS[kind].layer(C, masked_output=mode)) for mode in ("input", "zero"))
    _, gx = jitted_grad(passing, jnp.asarray(padded(mask)), mask, weights)
    _, want = jitted_grad(zero, jnp.asarray(padded(mask)), mask, weights)
    np.testing.assert_allclose(gx, np.where(mask, want, weights), rtol=1e-5, atol=1e-6)


@every_norm
def test_masked_elements_may_be_normalized_too(kind: str) -> None:
    """As brainstate.nn does it: with the statistics of the valid ones, which feel nothing of them."""
    mask = np.ones((2, 6), bool)
    mask[:, [2, 5]] = False
    x = draw(2, 6, seed=1, loc=-65, scale=5)
    layer = randomize(NORMS[kind].layer(6, masked_output="normalize"))
    y = np.asarray(layer(x, mask=mask))
    p = parameters(layer)
    np.testing.assert_allclose(y[mask], NORMS[kind].reference(x, mask=mask, **p)[mask], rtol=2e-5, atol=2e-5)
    groups = np.split(np.arange(6), 2) if kind == "GroupNorm" else [np.arange(6)]
    for row in range(2):
        for group in groups:
            valid = x[row, group][mask[row, group]].astype(float)
            mean = 0 if kind == "RMSNorm" else valid.mean()
            z = (x[row, group] - mean) / np.sqrt(((valid - mean) ** 2).mean() + 1e-6)
            want = z * p["scale"][group] + p.get("bias", np.zeros(6))[group]
            np.testing.assert_allclose(y[row, group], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("fill", FILLS)
@every_norm
def test_normalized_padding_is_finite(kind: str, fill: str) -> None:
    mask, weights = random_mask(), draw(T, B, C, seed=2)
    layer = NORMS[kind].layer(C, masked_output="normalize")
    y = np.asarray(layer(padded(mask, FILLS[fill]), mask=mask))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[mask], NORMS[kind].reference(padded(mask, 0), mask=mask)[mask], rtol=5e-5, atol=5e-5)
    states, gx = jitted_grad(layer, jnp.asarray(padded(mask, FILLS[fill])), mask, weights * mask)
    assert np.isfinite(gx).all()
    assert all(np.isfinite(g).all() for g in states.values())


# Nothing valid, or nothing at all.


@pytest.mark.parametrize("mode", ["zero", "normalize"])
@pytest.mark.parametrize("epsilon", [1e-6, 0.0])
@every_norm
def test_an_empty_row_is_zero_before_the_bias(kind: str, epsilon: float, mode: str) -> None:
    x, mask = np.full((2, C), np.nan, np.float32), np.zeros((2, C), bool)
    x[1], mask[1] = draw(C), True
    layer = randomize(NORMS[kind].layer(C, masked_output=mode, epsilon=epsilon))
    bias = parameters(layer).get("bias", np.zeros(C)) if mode == "normalize" else np.zeros(C)
    np.testing.assert_array_equal(layer(x, mask=mask)[0], bias)
    states, gx = jitted_grad(layer, jnp.asarray(x), mask, np.ones((2, C)))
    np.testing.assert_array_equal(gx[0], 0)
    assert np.isfinite(gx).all()
    assert all(np.isfinite(g).all() for g in states.values())


@every_norm
def test_one_valid_element_alone(kind: str) -> None:
    x = np.array([[np.nan, 3.0, np.nan, np.nan]], np.float32)
    y = NORMS[kind].layer(C)(x, mask=~np.isnan(x))
    np.testing.assert_allclose(y, [[0, 0 if kind in CENTRED else 1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@every_norm
def test_a_constant_group_has_finite_gradients(kind: str, epsilon: float) -> None:
    x = jnp.zeros((2, C)) if kind == "RMSNorm" else jnp.full((2, C), -65.0)
    layer = NORMS[kind].layer(C, epsilon=epsilon)
    np.testing.assert_array_equal(layer(x), 0)
    states, gx = jitted_grad(layer, x, None, draw(2, C))
    assert np.isfinite(gx).all()
    assert all(np.isfinite(g).all() for g in states.values())


@pytest.mark.parametrize("shape", [(0, B, C), (T, 0, C)], ids=["T=0", "batch 0"])
@pytest.mark.parametrize("axes", [-1, (0, 1, -1)], ids=str)
@every_norm
def test_no_steps_and_no_trials(kind: str, axes: Any, shape: tuple[int, ...]) -> None:
    layer = NORMS[kind].layer(C, reduction_axes=axes)
    for mask in (None, np.ones((*shape[:-1], 1), bool)):
        assert layer(jnp.zeros(shape), mask=mask).shape == shape
        states, gx = jitted_grad(layer, jnp.zeros(shape), mask, jnp.zeros(shape))
        assert gx.shape == shape
        assert all((g == 0).all() for g in states.values())


@every_norm
def test_moments_of_masked_data(kind: str) -> None:
    mask = random_mask()
    count, mean, var = functional.moments(padded(mask), (0, -1), mask=mask)
    np.testing.assert_array_equal(count, mask.sum((0, -1)))
    seen = np.where(mask, padded(mask), np.nan).astype(float)
    np.testing.assert_allclose(mean, np.nanmean(seen, (0, -1)), rtol=1e-6)
    np.testing.assert_allclose(var, np.nanvar(seen, (0, -1)), rtol=1e-4)
    for empty in functional.moments(jnp.full((2, 3), jnp.nan), mask=np.zeros((2, 3), bool)):
        np.testing.assert_array_equal(empty, 0)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("output", ["zero", "normalize"])
def test_nothing_is_computed_from_the_padding(kind: str, output: str) -> None:
    """jax_debug_nans raises at the first NaN that any operation returns: the padding's never gets into one."""
    mask = jnp.asarray(np.random.default_rng(0).random((6, 8)) < 0.6).at[2].set(False)
    x = jnp.where(mask, jnp.asarray(draw(6, 8)), jnp.nan)

    def norm(x: Any) -> Any:
        return NORMS[kind].function(x, mask=mask, masked_output=output)

    with jax.debug_nans(True):
        assert np.all(np.isfinite(norm(x)))
        assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(norm(x) ** 2))(x)))
        assert np.all(np.isfinite(functional.moments(x, mask=mask).var))
        assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(functional.moments(x, mask=mask).var))(x)))
        with jax.disable_jit():
            assert np.all(np.isfinite(norm(x)))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_array_that_is_not_tiny(axis: int) -> None:
    """Its program is another one: sums about a pilot mean, and products. One group begins only after the pilot."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(-65, 5, (120, 40)), rng.normal(size=(120, 40))
    mask = rng.random(x.shape) < 0.7
    np.moveaxis(mask, axis, 0)[:20, 3] = False
    n = mask.sum(axis, keepdims=True)

    def mean(v: Any) -> Any:
        return np.where(mask, v, 0).sum(axis, keepdims=True) / n

    r = 1 / np.sqrt(mean((x - mean(x)) ** 2) + 1e-6)
    z = (x - mean(x)) * r

    @jax.jit
    def both(x: Any) -> Any:
        y, pull = jax.vjp(lambda x: functional.layer_norm(x, mask=mask, reduction_axes=axis), x)
        return y, *pull(jnp.asarray(g, jnp.float32))

    y, slope = both(np.where(mask, x, np.nan).astype(np.float32))
    np.testing.assert_allclose(y, np.where(mask, z, 0), atol=2e-5)
    np.testing.assert_allclose(slope, np.where(mask, r * (g - mean(g) - z * mean(g * z)), 0), atol=2e-6)
