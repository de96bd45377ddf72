"""Times on the edge: an end on a step is at that step, in any unit, at any time, known or traced."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import masks
from braindnorm.errors import MaskError, OptionError, UnitError

UNITS = {"s": (u.second, 1e3), "ms": (u.ms, 1.0), "us": (u.us, 1e-3)}
every_pair = pytest.mark.parametrize(("of_ends", "of_times"), [(a, b) for a in UNITS for b in UNITS])


def float32(ms: Any, unit: str) -> Any:
    """Times in ms, as a program has them: in float32, in any unit."""
    prefix, in_ms = UNITS[unit]
    return jnp.asarray(ms, jnp.float32) * jnp.float32(1 / in_ms) * prefix


def counts(mask: Any) -> np.ndarray:
    return np.asarray(mask).sum(0)


def test_an_end_on_a_step() -> None:
    assert counts(masks.from_end_times(0.05 * u.ms, jnp.arange(200) * 0.01 * u.ms)) == 5


@every_pair
@pytest.mark.parametrize("dt", [0.01, 1.0])
def test_every_step_is_an_edge(of_ends: str, of_times: str, dt: float) -> None:
    """Each step in turn is an end: as many steps are valid as lie before it; a tenth of a step later one more."""
    k = np.arange(300)
    times = float32(np.float32(k) * np.float32(dt), of_times)
    shifts, more = np.array([[0.0], [0.1], [-0.1]]), np.array([[0], [1], [0]])
    ends, want = float32(np.maximum(k + shifts, 0) * dt, of_ends), np.minimum(k + more, 300)
    given = {"dt": dt * u.ms, "num_steps": 300}
    for mask in (
        masks.from_end_times(ends, times),
        jax.jit(masks.from_end_times)(ends, times),
        jax.jit(lambda e: masks.from_end_times(e, times))(ends),
        jax.jit(lambda t: masks.from_end_times(ends, t))(times),
        masks.from_end_times(ends, **given),
        jax.jit(lambda e: masks.from_end_times(e, **given))(ends),
        jax.jit(lambda e, d: masks.from_end_times(e, dt=d, num_steps=300))(ends, float32(dt, of_times)),
    ):
        np.testing.assert_array_equal(counts(mask), want)


def test_long_recordings() -> None:
    """Half a million steps of 0.1 ms in float32: every end that lies on a step."""
    steps = 500_000
    times = jnp.arange(steps) * jnp.float32(0.1) * u.ms
    at = np.random.default_rng(0).integers(0, steps, 20)
    ends = np.float64(at) * 1e-4 * u.second
    np.testing.assert_array_equal(counts(masks.from_end_times(ends, times)), at)
    np.testing.assert_array_equal(counts(masks.from_end_times(ends, dt=0.1 * u.ms, num_steps=steps)), at)


def test_what_float32_cannot_tell() -> None:
    late = 1e4 + np.arange(-50, 50) * 1e-4
    with pytest.raises(MaskError, match=r"from_end_times: it cannot be told at which step an end lies.*numpy\.float64"):
        masks.from_end_times(1e4 * u.second, jnp.asarray(late, jnp.float32) * u.second)
    with pytest.raises(MaskError, match="cannot be told"):
        masks.from_end_times(jnp.float16(1000) * u.ms, dt=0.1 * u.ms, num_steps=10_001)
    # float64 can, and so can float32 where the end is far
    assert counts(masks.from_end_times(1e4 * u.second, late * u.second)) == 50
    assert counts(masks.from_end_times([9e3, 2e4] * u.second, jnp.asarray(late, jnp.float32) * u.second)).tolist() == [
        0,
        100,
    ]


def test_nanoseconds() -> None:
    times = (2**40 + np.arange(10) * 100_000) * u.nsecond
    ends = (2**40 + np.array([0, 500_000, 500_001, 550_000])) * u.nsecond
    assert counts(masks.from_end_times(ends, times)).tolist() == [0, 5, 5, 6]  # 1 ns is less than a thousandth
    assert counts(masks.from_end_times(ends.mantissa, times.mantissa)).tolist() == [0, 5, 5, 6]
    assert counts(masks.from_end_times(ends.mantissa.tolist(), times.mantissa.astype(np.uint64))).tolist() == [
        0,
        5,
        5,
        6,
    ]
    since = (ends.mantissa - 2**40) * u.nsecond
    assert counts(masks.from_end_times(since, dt=0.1 * u.ms, num_steps=10)).tolist() == [0, 5, 5, 6]


def test_the_share_of_a_step() -> None:
    """A thousandth of a step, as documented."""
    ends = np.array([2 - 9e-4, 2 + 9e-4, 2 + 1.1e-3, 2 - 1.1e-3])
    for given in ({"times": np.arange(5.0)}, {"dt": 1.0, "num_steps": 5}):
        assert counts(masks.from_end_times(ends, **given)).tolist() == [2, 2, 3, 2]
    assert counts(masks.from_end_times([9e-4, 1.1e-3], dt=1.0, num_steps=1)).tolist() == [0, 1]


def test_uneven_times_and_few() -> None:
    times = np.array([0.0, 0.1, 5.0, 5.001, np.inf])
    assert counts(masks.from_end_times([0.1, 5.0, 5.0005, 5.001, 6.0, -1.0, np.nan], times)).tolist() == [
        1,
        2,
        3,
        3,
        4,
        0,
        0,
    ]
    assert masks.from_end_times([1.0, 3.0], np.array([2.0])).tolist() == [[False, True]]
    assert masks.from_end_times([1.0, 3.0], np.zeros(0)).shape == (0, 2)
    assert masks.from_end_times([], np.arange(3)).shape == (3, 0)
    assert masks.from_end_times(np.uint8([1, 2]), np.arange(3, dtype=np.uint8)).sum(0).tolist() == [1, 2]


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, OptionError, "give times, the time of each step, or else both dt and num_steps"),
    "both": ({"times": [0.0, 1.0], "dt": 1.0, "num_steps": 2}, OptionError, "or else both dt and num_steps"),
    "dt alone": ({"dt": 1.0}, OptionError, "both dt and num_steps"),
    "steps alone": ({"num_steps": 3}, OptionError, "both dt and num_steps"),
    "times and steps": ({"times": [0.0, 1.0], "num_steps": 2}, OptionError, "both dt and num_steps"),
    "negative": ({"dt": -1.0, "num_steps": 3}, OptionError, r"dt must be one positive number or time; got -1\.0"),
    "zero": ({"dt": 0.0, "num_steps": 3}, OptionError, "dt must be one positive"),
    "nan": ({"dt": np.nan, "num_steps": 3}, OptionError, "dt must be one positive"),
    "several": ({"dt": [1.0, 2.0], "num_steps": 3}, OptionError, "dt must be one positive"),
    "float steps": ({"dt": 1.0, "num_steps": 3.0}, MaskError, "from_end_times: num_steps must be an integer"),
    "a unit": ({"dt": 1.0 * u.ms, "num_steps": 3}, UnitError, "end_times without a unit, dt in ms. Give them in units"),
    "words": ({"times": "a"}, TypeError, r"from_end_times: times must be a number"),
    "complex": ({"times": [1j]}, TypeError, "from_end_times: times must be real numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_ends_that_are_refused(case: str) -> None:
    given, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        masks.from_end_times(1.0, **given)


@every_pair
@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_a_period_that_ends_now(of_ends: str, of_times: str, dt: float) -> None:
    k = np.arange(3000)
    last = float32(np.float32(k) * np.float32(dt), of_times)
    late, want = np.array([[20.0], [19.9], [19.0], [20.1], [0.0]]), np.array([[1], [0], [0], [1], [0]])
    last, now = last + 0 * float32(late, of_times), float32((k + late) * dt, of_ends)
    for step in (None, dt * u.ms):
        with brainstate.environ.context(dt=step):
            for call in (masks.not_refractory, jax.jit(masks.not_refractory)):
                got = np.asarray(call(last, 20 * dt * u.ms, now))
                np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))


def test_a_period_at_a_late_time() -> None:
    with pytest.raises(MaskError, match="not_refractory: it cannot be told at which step the end of a refractory"):
        masks.not_refractory(jnp.float32([1e4]) * u.second, 2 * u.ms, jnp.float32(1e4) * u.second)
    last = np.array([1e4, 1e4 - 2e-3, 1e4 - 1.9e-3, -1e4, -np.inf]) * u.second
    want = [False, True, False, True, True]
    assert masks.not_refractory(last, 2 * u.ms, 1e4 * u.second).tolist() == want
    with brainstate.environ.context(dt=0.1 * u.ms):
        assert masks.not_refractory(last, 2 * u.ms, 1e4 * u.second).tolist() == want
    # compiled, at a time that is too coarse: a neuron that spiked just now is refractory all the same
    late = jnp.float32([1e4, 0.0]) * u.second
    assert jax.jit(masks.not_refractory)(late, 2 * u.ms, late[0]).tolist() == [False, True]


def test_periods_of_zero_and_each() -> None:
    assert masks.not_refractory(np.array([1.0, 1.0]), np.array([0.0, 1.0]), 1.0).tolist() == [True, False]
    assert masks.not_refractory(np.uint8([10, 3]), 2, 5).tolist() == [False, True]
    assert jax.jit(masks.not_refractory)(jnp.uint8([10, 3]), 2, jnp.uint8(5)).tolist() == [False, True]
    ns = np.array([2**40, 2**40 - 10**6]) * u.nsecond
    assert masks.not_refractory(ns, 1 * u.ms, 2**40 * u.nsecond).tolist() == [False, True]
    with brainstate.environ.context(dt=0.1):  # of another dimension: no step of these times
        assert masks.not_refractory(ns, 1 * u.ms, 2**40 * u.nsecond).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 3)], ids=str)
def test_shapes_that_do_not_fit_the_neurons(shape: tuple[int, ...]) -> None:
    refused = r"of shape \(.*\) does not broadcast to (last_spike_time|membrane) of shape \(3,\)\. Give one number"
    other = np.ones(shape)
    for call in (
        lambda: masks.not_refractory(np.ones(3), other, 2.0),
        lambda: masks.not_refractory(np.ones(3), 1.0, other),
        lambda: masks.off_reset(np.ones(3), other),
        lambda: masks.off_reset(np.ones(3), 1.0, other),
    ):
        with pytest.raises(MaskError, match=refused):
            call()


def test_dimensions_that_differ() -> None:
    with pytest.raises(
        UnitError, match=r"got last_spike_time in ms, tau_ref in ms, t without a unit\. Give them in units"
    ):
        masks.not_refractory(np.ones(3) * u.ms, 2 * u.ms, 3.0)
    with pytest.raises(UnitError, match=r"off_reset: got membrane in mV, reset in nA\. Give them in units of one"):
        masks.off_reset(np.ones(3) * u.mV, 2 * u.nA)


def test_a_membrane_at_reset_in_any_unit() -> None:
    assert not masks.off_reset(-0.065 * u.volt, -65 * u.mV)
    resets = np.linspace(-80, -50, 301)
    for prefix, scale in ((u.volt, 1e-3), (u.mV, 1.0), (u.uvolt, 1e3)):
        membrane = jnp.asarray(resets * scale, jnp.float32) * prefix
        for call in (masks.off_reset, jax.jit(masks.off_reset)):
            assert not call(membrane, resets * u.mV).any()
            assert call(membrane, (resets + 1e-3) * u.mV).all()
            # at the tolerance is within it
            assert not call(membrane, (resets + 0.1) * u.mV, 0.1 * u.mV).any()
            assert call(membrane, (resets + 0.101) * u.mV, 0.1 * u.mV).all()
    assert masks.off_reset(np.int8([-65, -60]), -65.5, 0.6).tolist() == [False, True]
    assert masks.off_reset(np.int8([-65, 100]), -200).tolist() == [True, True]
    assert masks.off_reset(jnp.full(2, 65, jnp.uint8), 70, 4).tolist() == [True, True]
