"""Batch normalization as a function, and what is kept of it."""

from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import errors
from braindnorm.functional import Statistics, batch_norm, layer_norm, moments, update_running
from tests.support import reference
from tests.support.norms import draw, float64


def closed(y: Any, want: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axis", [-1, -2, 0, (0, -1), (-3, -2, -1), ()], ids=str)
def test_statistics_of_each_channel(axis: Any, masked: bool) -> None:
    """Values and what is kept are those over all other axes, in every place of the channels."""
    x, scale, bias = draw(3, 4, 6, loc=2.0), draw(6, seed=1), draw(6, seed=2)
    mask = np.random.default_rng(5).random(x.shape) < 0.7 if masked else np.ones(x.shape, bool)
    kept = {a % 3 for a in np.atleast_1d(axis).astype(int)}
    others = tuple(a for a in range(3) if a not in kept)
    y, found = batch_norm(np.where(mask, x, np.nan), scale, bias, feature_axis=axis, mask=mask if masked else None)
    want = reference.layer_norm(x, others, mask=mask, scale=scale, bias=bias) if others else np.where(mask, bias, 0)
    closed(y, np.where(mask, want, 0))
    wide = np.where(mask, x.astype(np.float64), 0)
    count = mask.sum(others, keepdims=True)
    mean = wide.sum(others, keepdims=True) / np.maximum(count, 1)
    var = np.where(mask, (wide - mean) ** 2, 0).sum(others, keepdims=True) / np.maximum(count, 1)
    for got, expected in zip(found, (count, mean, var), strict=True):
        assert got.shape == mean.shape[min(kept, default=3) :]
        closed(np.broadcast_to(got, mean.shape) if got.shape else np.full(mean.shape, got), expected)


def test_given_statistics_are_constants() -> None:
    """Each element by itself, whatever the others are; the gradient is that of a scale and a shift."""
    x, mean, var, scale = draw(5, 3), draw(3, seed=1), np.exp(draw(3, seed=2)), draw(3, seed=3)
    known = Statistics(0, mean, var)
    want = (x.astype(np.float64) - mean) / np.sqrt(var + 1e-6) * scale + 1
    y, same = batch_norm(x, scale, jnp.ones(3), running=known)
    assert same is known
    closed(y, want)
    closed(batch_norm(x[2], scale, jnp.ones(3), running=known)[0], want[2])
    closed(jax.vmap(lambda row: batch_norm(row, scale, jnp.ones(3), running=known)[0])(x), want)
    closed(batch_norm(x, scale, jnp.ones(3), running=known, axis_name="nobody binds it")[0], want)
    slope = jax.grad(lambda x: batch_norm(x, scale, running=known)[0].sum())(x)
    closed(slope, np.broadcast_to(scale / np.sqrt(var + 1e-6), x.shape))


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked: bool) -> None:
    """As those of the reference, by a complex step; what is kept carries none."""
    x, scale, bias, pull = draw(7, 3).astype(float), draw(3, seed=1), draw(3, seed=2), draw(7, 3, seed=3).astype(float)
    mask = np.arange(7)[:, None] < np.array([7, 4, 1]) if masked else np.ones(x.shape, bool)
    with float64():

        def loss(x: Any, kept: float = 0.0) -> Any:
            y, found = batch_norm(x, scale, bias, mask=mask)
            return jnp.sum(y * pull) + kept * (found.mean.sum() + found.var.sum())

        got, also = jax.grad(loss)(x), jax.grad(loss)(x, 3.0)
    want = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        step = x.astype(complex)
        step[at] += 1e-30j
        want[at] = np.sum(reference.layer_norm(step, 0, mask=mask, scale=scale, bias=bias) * pull).imag / 1e-30
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(got, also)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_kept_does_not_change_the_value(masked: bool) -> None:
    """The rule that hands out the moments and the one that does not give the same."""
    x = draw(40, 6, loc=-65, scale=0.01)
    mask = np.arange(40)[:, None] < 25 if masked else None
    np.testing.assert_array_equal(batch_norm(x, mask=mask)[0], layer_norm(x, reduction_axes=0, mask=mask))
    want = moments(x, 0, mask=mask)
    for got, expected in zip(batch_norm(x, mask=mask)[1], want, strict=True):
        closed(got, expected, 1e-6)


def test_units() -> None:
    x = draw(5, 3, loc=-65.0, scale=3.0)
    y, found = batch_norm(x * u.mV, out_unit=u.UNITLESS, epsilon=1e-6 * u.mV**2)
    assert (u.get_unit(found.mean), u.get_unit(found.var)) == (u.mV, u.mV**2)
    closed(found.mean / u.mV, x.astype(float).mean(0))
    again, _ = batch_norm(x * 1e-3 * u.volt, running=found, out_unit=u.UNITLESS, epsilon=1e-6 * u.mV**2)
    closed(again, y, 1e-4)
    kept = update_running(Statistics(0, jnp.zeros(3) * u.volt, jnp.ones(3) * u.volt**2), found, 0.5)
    assert (u.get_unit(kept.mean), u.get_unit(kept.var)) == (u.volt, u.volt**2)
    closed(kept.mean / u.volt, 0.5e-3 * x.astype(float).mean(0), 1e-6)
    for wrong, what in ((1.0 * u.nA, "nA"), (1.0, "")):
        with pytest.raises(errors.UnitError, match=rf"the running mean is in {what}.*where mV is expected"):
            batch_norm(x * u.mV, running=Statistics(0, wrong, 1.0))


@pytest.mark.parametrize("unbiased", [False, True])
def test_an_update(unbiased: bool) -> None:
    """By the equation; a channel without elements stays bit for bit, and one element has no unbiased variance."""
    x, mask = draw(6, 4, loc=3.0), np.arange(6)[:, None] < np.array([6, 3, 1, 0])
    kept = Statistics(0, jnp.asarray(draw(4, seed=1)), jnp.asarray(np.exp(draw(4, seed=2))))
    after = update_running(kept, batch_norm(x, mask=mask)[1], 0.9, unbiased)
    for channel, n in enumerate((6, 3, 1)):
        column = x[:n, channel].astype(float)
        closed(after.mean[channel], 0.9 * kept.mean[channel] + 0.1 * column.mean(), 1e-6)
        if n > 1 or not unbiased:
            closed(after.var[channel], 0.9 * kept.var[channel] + 0.1 * column.var(ddof=int(unbiased)), 1e-6)
    if unbiased:
        assert after.var[2] == kept.var[2]
    assert (after.mean[3], after.var[3]) == (kept.mean[3], kept.var[3])
    np.testing.assert_array_equal(after.count, [6, 3, 1, 0])


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_a_mean_arrives_however_small_the_step(momentum: float) -> None:
    """At -65 mV a step of a hundredth of the distance rounds to nothing long before the mean is there."""
    target = jnp.float32(-65.00301)
    kept, found = Statistics(0, jnp.float32(-65.0), jnp.float32(1.0)), Statistics(8, target, jnp.float32(1e-4))
    step = jax.jit(lambda kept: update_running(kept, found, momentum))
    for _ in range(int(12 / (1 - momentum))):
        kept = step(kept)
    assert kept.mean == target
    held = update_running(Statistics(0, jnp.float32(-65.0), jnp.float32(1.0)), found, 1.0)
    assert (held.mean, held.var) == (-65.0, 1.0)


@pytest.mark.parametrize("start", [1.0, 1e8, -3.0, 0.0, np.inf])
def test_nothing_is_left_of_what_has_no_weight(start: float) -> None:
    """With a momentum of 0 what is kept is what was found, however far from it the start was."""
    found = Statistics(8, jnp.float32(0.123), jnp.float32(1e-4))
    after = update_running(Statistics(0, jnp.float32(start), jnp.float32(start)), found, 0.0)
    np.testing.assert_allclose([after.mean, after.var], [0.123, 1e-4], rtol=2e-7)


@pytest.mark.parametrize("start", [1.0, 1e8, -3.0, -65.0, -65.01])
def test_an_update_keeps_its_digits(start: float) -> None:
    found = Statistics(8, jnp.float32(-65.003), jnp.float32(1.0))
    after = update_running(Statistics(0, jnp.float32(start), jnp.float32(1.0)), found, 0.75)
    want = 0.75 * float(jnp.float32(start)) + 0.25 * float(jnp.float32(-65.003))
    np.testing.assert_allclose(after.mean, want, rtol=1.2e-7)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, "0.9", None, True, np.nan, [0.9, 0.9]], ids=str)
def test_a_momentum_that_is_none(momentum: Any) -> None:
    with pytest.raises(errors.OptionError, match=r"momentum must be a number from 0 to 1.*torch is 1 minus this one"):
        update_running(Statistics(0, jnp.zeros(1), jnp.ones(1)), Statistics(1, jnp.zeros(1), jnp.ones(1)), momentum)


def test_what_is_not_finite_is_kept() -> None:
    found = batch_norm(np.array([[1.0, np.inf, np.nan], [2.0, 1.0, 1.0]], np.float32))[1]
    after = update_running(Statistics(0, jnp.zeros(3), jnp.ones(3)), found)
    assert np.isfinite(after.mean).tolist() == np.isfinite(after.var).tolist() == [True, False, False]


def test_an_affine_of_your_own() -> None:
    class Doubled:
        value = None

        def execute(self, z: jax.Array) -> jax.Array:
            return 2 * z

    x = draw(5, 6)
    y, found = batch_norm(x, affine=Doubled())
    closed(y, 2 * reference.layer_norm(x, 0))
    closed(batch_norm(x, running=found, affine=Doubled())[0], 2 * reference.layer_norm(x, 0))
