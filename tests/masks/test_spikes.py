"""The masks that spiking models build."""

from typing import Any

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, masks
from braindnorm.errors import AxisError, MaskError, OptionError, UnitError

LAST = jnp.array([[-1e7, 8.0, 9.5], [8.1, 10.0, -jnp.inf]]) * u.ms
VALID = np.array([[True, True, False], [False, False, True]])


def test_not_refractory_in_any_unit_of_time() -> None:
    assert np.array_equal(masks.not_refractory(LAST, 2 * u.ms, 10 * u.ms), VALID)
    assert np.array_equal(masks.not_refractory(LAST, 2000 * u.us, 0.01 * u.second), VALID)
    assert np.array_equal(masks.not_refractory(LAST.to_decimal(u.ms), 2.0, 10.0), VALID)
    assert np.array_equal(masks.not_refractory(brainstate.ShortTermState(LAST), 2 * u.ms, 10 * u.ms), VALID)
    assert masks.not_refractory(LAST, jnp.array([2.0, 3.0, 0.1]) * u.ms, 10 * u.ms).tolist()[0] == [True, False, True]


def test_not_refractory_takes_the_time_of_the_environment() -> None:
    with brainstate.environ.context(t=10 * u.ms):
        assert np.array_equal(masks.not_refractory(LAST, 2 * u.ms), VALID)
    with pytest.raises(OptionError, match=r"the time is not known. Give t="):
        masks.not_refractory(LAST, 2 * u.ms)


@pytest.mark.parametrize(("tau_ref", "t"), [(2.0, 10 * u.ms), (2 * u.mV, 10 * u.ms), (2 * u.ms, 10.0)])
def test_not_refractory_refuses_other_dimensions(tau_ref: Any, t: Any) -> None:
    with pytest.raises(UnitError, match="not_refractory"):
        masks.not_refractory(LAST, tau_ref, t)


def test_off_reset() -> None:
    v = jnp.array([-65.0, -64.95, -60.0]) * u.mV
    assert masks.off_reset(v, -65 * u.mV).tolist() == [False, True, True]
    assert masks.off_reset(v, -0.065 * u.volt, tolerance=0.1 * u.mV).tolist() == [False, False, True]
    assert masks.off_reset(v.to_decimal(u.mV), -65.0).tolist() == [False, True, True]
    with pytest.raises(UnitError, match="off_reset"):
        masks.off_reset(v, -65 * u.nA)
    with pytest.raises(UnitError, match="off_reset"):
        masks.off_reset(v, -65 * u.mV, tolerance=0.1)


class BinaryArray:
    """Events as brainevent wraps them."""

    def __init__(self, value: Any) -> None:
        self.value, self.dtype = value, value.dtype


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: s.astype(float), lambda s: s * u.nA, jnp.asarray, BinaryArray])
def test_spiked(wrap: Any) -> None:
    spikes = np.array([[[0, 1, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]]])
    expected = np.array([[[True, True, False], [False, False, True]]])
    assert np.array_equal(masks.spiked(wrap(spikes)), expected)
    assert np.array_equal(masks.spiked(wrap(spikes), (0, -1)), [[[True], [True]]])
    with pytest.raises(AxisError, match="spiked: axes=3"):
        masks.spiked(wrap(spikes), 3)


def test_what_has_no_spikes() -> None:
    with pytest.raises(MaskError, match="spikes must be an array of numbers"):
        masks.spiked("no spikes")


def test_spikers_alone_are_degenerate() -> None:
    """What the guide says: binary input over spikers alone has mean 1 and variance 0, so z is 0 for every input."""
    for seed in range(3):
        spikes = np.random.default_rng(seed).random((2, 6)) < 0.5
        assert not np.asarray(LayerNorm(6)(spikes, mask=spikes)).any()
