"""The boundary between quantities and plain arrays."""

import re
from typing import Any

import brainevent
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import functional, units
from braindnorm.errors import OptionError, UnitError

PER_MILLE = u.mV / u.volt


@pytest.mark.parametrize("unit", [None, u.volt, u.mV, u.uvolt], ids=str)
def test_a_unit_comes_off_and_goes_on_again(unit: Any) -> None:
    x = jnp.array([-0.065, 0.03]) * u.volt
    mantissa, reference = units.strip(x, unit)
    assert isinstance(mantissa, jax.Array)
    assert reference == (unit or u.volt)
    np.testing.assert_allclose(units.restore(mantissa, reference) / u.volt, x / u.volt, rtol=1e-6)


@pytest.mark.parametrize("x", [3, [1, 2], np.ones(2), jnp.ones(2)], ids=type)
def test_what_is_plain_stays_plain(x: Any) -> None:
    mantissa, reference = units.strip(x, None)
    assert reference.is_unitless
    np.testing.assert_array_equal(mantissa, x)
    assert isinstance(units.restore(jnp.ones(2), reference), jax.Array)


def test_dimensionless_with_a_scale() -> None:
    x = u.Quantity(jnp.array([500.0]), unit=PER_MILLE)
    assert units.strip(x, None)[1] == PER_MILLE
    np.testing.assert_allclose(units.strip(x, u.UNITLESS)[0], 0.5, rtol=1e-6)
    assert isinstance(units.restore(jnp.ones(2), PER_MILLE), u.Quantity)
    with pytest.raises(UnitError, match="plain array"):
        units.strip(jnp.ones(2), PER_MILLE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rescaled_in_float32(dtype: str) -> None:
    mantissa, _ = units.strip(jnp.full(2, 70, dtype) * u.nA, u.pA)
    np.testing.assert_array_equal(mantissa, 70000.0)
    assert units.strip(jnp.full(2, 70, dtype) * u.nA, u.nA)[0].dtype == dtype


def test_nothing_is_computed_where_units_are_equal() -> None:
    x = jnp.ones(2)
    assert units.convert(x, u.mV, u.mV) is x
    assert not jax.make_jaxpr(lambda x: units.strip(x * u.mV, u.mV)[0])(x).eqns


EPSILONS: dict[str, Any] = {
    "number": (25.0, 25.0),
    "integer": (25, 25.0),
    "numpy": (np.float64(25.0), 25.0),
    "bfloat16": (jnp.bfloat16(25.0), 25.0),
    "variance": (25.0 * u.mV**2, 25.0),
    "variance in another prefix": (25e-6 * u.volt**2, 25.0),
    "standard deviation": (5.0 * u.mV, 25.0),
    "standard deviation in another prefix": (5e-3 * u.volt, 25.0),
    "zero": (0.0, 0.0),
    "zero with a unit": (0.0 * u.volt, 0.0),
}


@pytest.mark.parametrize("form", EPSILONS)
def test_epsilon(form: str) -> None:
    epsilon, want = EPSILONS[form]
    np.testing.assert_allclose(units.variance_of(epsilon, u.mV), want, rtol=1e-6)


@pytest.mark.parametrize("unit", [PER_MILLE, PER_MILLE**2, u.volt / u.mV], ids=str)
def test_epsilon_without_a_dimension(unit: Any) -> None:
    """A variance and a standard deviation have the same dimension here, none: their units tell them apart."""
    assert units.variance_of(u.Quantity(3.0, unit=unit**2), unit) == 3.0
    assert units.variance_of(u.Quantity(3.0, unit=unit), unit) == 9.0
    assert units.variance_of(3.0, unit) == 3.0
    for other in (unit**3, unit**4):
        with pytest.raises(UnitError, match="a variance or a standard deviation"):
            units.variance_of(u.Quantity(3.0, unit=other), unit)
    with pytest.raises(UnitError, match="the input has no unit"):
        units.variance_of(u.Quantity(3.0, unit=unit), u.UNITLESS)


def test_a_ratio_is_normalized_with_the_variance_it_says() -> None:
    x = np.array([1.0, 2.0, 4.0], np.float32)
    y = functional.layer_norm(x * PER_MILLE, epsilon=0.5 * PER_MILLE**2, out_unit=u.UNITLESS)
    np.testing.assert_allclose(y, (x - x.mean()) / np.sqrt(x.var() + 0.5), rtol=1e-6)


SPELLED = [
    *(u.mV, u.volt, u.meter, u.kelvin, u.minute, u.degree, u.Hz, u.mmolar, u.fluid_ounce, u.kmh),
    *(u.mV / u.volt, PER_MILLE**2, u.volt / u.mV, u.mV * u.mV / u.uvolt),
    *(u.mV / u.ms, u.mV * u.Hz, u.volt / u.kelvin, u.nS / u.cm**2, u.mV**0.5, u.mV**2, u.mV**2 / u.ms),
    *(u.mV / u.ms / u.cm**2, u.ms**-1, u.mV * u.minute, u.ohm * u.meter, u.meter / u.second, u.degree / u.second),
]


@pytest.mark.parametrize("unit", SPELLED, ids=str)
def test_the_cure_for_a_missing_unit_runs(unit: Any) -> None:
    """What the error says to write gives what the norm was declared for."""
    x = jnp.ones(2)
    with pytest.raises(UnitError) as raised:
        units.strip(x, unit)
    (written,) = re.findall(r"Attach it \((.*)\), or build", str(raised.value))
    given = eval(written, {"brainunit": u, "x": x})
    np.testing.assert_allclose(units.strip(given, unit)[0], x, rtol=1e-6)


def test_epsilon_may_be_traced() -> None:
    got = jax.jit(lambda e: units.variance_of(e * u.volt, u.mV))(0.005)
    np.testing.assert_allclose(got, 25.0, rtol=1e-6)


def test_epsilon_of_plain_input() -> None:
    assert units.variance_of(0.1, u.UNITLESS) == 0.1
    for epsilon in (1.0 * u.mV, 1.0 * u.mV**2):
        with pytest.raises(UnitError):
            units.variance_of(epsilon, u.UNITLESS)


def test_an_epsilon_that_waits_for_its_unit_is_not_refused_early() -> None:
    units.check_epsilon(1.0 * u.mV, None)
    for epsilon, unit in ((-1.0, None), (-1.0 * u.mV, u.mV)):
        with pytest.raises(OptionError):
            units.check_epsilon(epsilon, unit)


def test_parameters_lose_their_units() -> None:
    plain, unit = units.strip_parameters({"scale": 2.0 * u.mV, "bias": 1e-3 * u.volt}, None)
    assert unit == u.mV
    np.testing.assert_allclose([plain["scale"], plain["bias"]], [2.0, 1.0], rtol=1e-6)
    plain, unit = units.strip_parameters({"scale": None, "bias": 1.0}, None)
    assert (plain, unit) == ({"scale": None, "bias": 1.0}, None)
    plain, unit = units.strip_parameters({"scale": 1.0, "bias": 1.0 * u.mV}, u.uvolt)
    assert unit == u.uvolt
    np.testing.assert_allclose([plain["scale"], plain["bias"]], [1.0, 1000.0], rtol=1e-6)


def test_what_an_event_is() -> None:
    events = brainevent.BinaryArray(jnp.ones(2))
    assert units.is_event(events)
    for other in (jnp.ones(2), np.ones(2), np.float32(1), jnp.ones(2) * u.mV, brainstate.ParamState(jnp.ones(2)), [1]):
        assert not units.is_event(other)
    assert units.unwrap(events) is events.value
    state = brainstate.HiddenState(jnp.ones(2))
    assert units.unwrap(state) is state.value
