"""Law L2: the same physical input gives the same physical output, whatever prefix it is written in."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, functional
from braindnorm.errors import UnitError
from tests.support import reference
from tests.support.norms import CENTRED, NORMS, draw, parameters, randomize, weight_of

Constant = brainstate.nn.init.Constant
PREFIXES = {"V": u.volt, "mV": u.mV, "uV": u.uvolt, "kV": u.kvolt}
every_norm = pytest.mark.parametrize("kind", NORMS)


def volts(*shape: int) -> np.ndarray:
    return draw(*shape, seed=1, loc=-65e-3, scale=5e-3)


def in_prefix(prefix: str, x: np.ndarray) -> Any:
    """Write volts in a prefix."""
    factor = {"V": 1.0, "mV": 1e3, "uV": 1e6, "kV": 1e-3}[prefix]
    return jnp.asarray(x.astype(float) * factor, jnp.float32) * PREFIXES[prefix]


@pytest.mark.parametrize("prefix", PREFIXES)
@every_norm
def test_prefix_changes_nothing_with_a_declared_unit(kind: str, prefix: str) -> None:
    """Epsilon is as large as the variance, so that it would show if it counted in the wrong unit."""
    layer = randomize(NORMS[kind].layer(6, unit=u.mV, epsilon=25.0))
    y = layer(in_prefix(prefix, volts(5, 6)))
    assert u.get_unit(y) == u.mV
    want = NORMS[kind].reference(volts(5, 6).astype(float) * 1e3, epsilon=25.0, **parameters(layer))
    np.testing.assert_allclose(u.get_mantissa(y), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("epsilon", [5.0 * u.mV, 5e-3 * u.volt, 25.0 * u.mV**2, 25e-6 * u.volt**2], ids=str)
@every_norm
def test_epsilon_with_a_unit_means_the_same_in_every_prefix(kind: str, epsilon: Any, prefix: str) -> None:
    y = NORMS[kind].function(in_prefix(prefix, volts(2, 6)), epsilon=epsilon, out_unit=u.UNITLESS)
    want = NORMS[kind].reference(volts(2, 6), epsilon=25e-6)
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


@every_norm
def test_without_a_declared_unit_what_arrives_is_the_reference(kind: str) -> None:
    layer = NORMS[kind].layer(6, epsilon=25e-6)
    plain, quantity = layer(volts(5, 6)), layer(jnp.asarray(volts(5, 6)) * u.volt)
    assert isinstance(plain, jax.Array)
    assert u.get_unit(quantity) == u.volt
    np.testing.assert_array_equal(u.get_mantissa(quantity), plain)
    np.testing.assert_allclose(plain, NORMS[kind].reference(volts(5, 6), epsilon=25e-6), rtol=1e-5, atol=1e-5)


@every_norm
def test_out_unit(kind: str) -> None:
    x = in_prefix("V", volts(5, 6))
    score, current = (NORMS[kind].layer(6, unit=u.mV, out_unit=unit)(x) for unit in (u.UNITLESS, u.mA))
    assert isinstance(score, jax.Array)
    assert u.get_unit(current) == u.mA
    np.testing.assert_array_equal(u.get_mantissa(current), score)
    assert u.get_unit(NORMS[kind].layer(6, unit=u.mV, out_unit=u.volt)(x)) == u.volt


@every_norm
def test_an_initializer_with_a_unit_sets_the_output(kind: str) -> None:
    threshold = 20.0 * u.mV
    layer = NORMS[kind].layer(6, unit=u.mV, scale_init=Constant(0.5 * threshold))
    (scale, *_) = jax.tree.leaves(weight_of(layer).value["scale"])
    assert isinstance(scale, jax.Array)
    assert scale.dtype == jnp.float32
    np.testing.assert_array_equal(scale, 10.0)
    assert layer.out_unit == u.mV
    y = layer(in_prefix("V", volts(5, 6)))
    np.testing.assert_allclose(y / u.mV, NORMS[kind].reference(volts(5, 6) * 1e3, scale=10.0), rtol=1e-4, atol=1e-4)


@every_norm
@pytest.mark.parametrize("init", [3 * u.mA, jnp.full(6, 3.0) * u.mA, lambda shape: jnp.full(shape, 3) * u.mA])
def test_initial_values_may_be_quantities_of_any_kind(kind: str, init: Any) -> None:
    layer = NORMS[kind].layer(6, scale_init=init)
    scale = weight_of(layer).value["scale"]
    assert layer.out_unit == u.mA
    assert (scale.dtype, scale.weak_type) == (jnp.float32, False)
    np.testing.assert_array_equal(scale, np.full(6, 3.0))


@pytest.mark.parametrize("kind", CENTRED)
def test_scale_and_bias_are_brought_to_one_unit(kind: str) -> None:
    layer = NORMS[kind].layer(6, scale_init=Constant(2.0 * u.mV), bias_init=Constant(1e-3 * u.volt))
    np.testing.assert_allclose(parameters(layer)["bias"], 1.0, rtol=1e-6)
    layer = NORMS[kind].layer(6, out_unit=u.uvolt, scale_init=Constant(2.0 * u.mV))
    np.testing.assert_allclose(parameters(layer)["scale"], 2000.0, rtol=1e-6)


@pytest.mark.parametrize("kind", CENTRED)
def test_scale_and_bias_that_disagree_are_refused(kind: str) -> None:
    with pytest.raises(UnitError, match="bias is in mA, but scale is in mV"):
        NORMS[kind].layer(6, scale_init=Constant(2.0 * u.mV), bias_init=Constant(1.0 * u.mA))
    with pytest.raises(UnitError, match="scale is in mV, but out_unit is in mA"):
        NORMS[kind].layer(6, out_unit=u.mA, scale_init=Constant(2.0 * u.mV))


@every_norm
def test_dimensionless_with_a_scale_is_not_unitless(kind: str) -> None:
    per_mille = u.mV / u.volt
    x = draw(2, 6, seed=2)
    kept = NORMS[kind].function(u.Quantity(jnp.asarray(x), unit=per_mille), epsilon=0.5)
    assert u.get_unit(kept) == per_mille
    np.testing.assert_allclose(u.get_mantissa(kept), NORMS[kind].reference(x, epsilon=0.5), rtol=1e-5, atol=1e-5)
    bare = NORMS[kind].function(u.Quantity(jnp.asarray(x * 1e3), unit=per_mille), unit=u.UNITLESS, epsilon=0.5)
    assert isinstance(bare, jax.Array)
    np.testing.assert_allclose(bare, NORMS[kind].reference(x, epsilon=0.5), rtol=1e-5, atol=1e-5)


@every_norm
def test_a_quantity_compiles_to_the_program_of_its_mantissa(kind: str) -> None:
    x = jnp.asarray(volts(5, 6))
    plain = NORMS[kind].layer(6, masked_output="input")
    declared = NORMS[kind].layer(6, unit=u.volt, masked_output="input")
    mask = jnp.arange(6) < 4

    def program(layer: Any, x: Any) -> str:
        return str(jax.make_jaxpr(lambda x, mask: u.get_mantissa(layer(x, mask=mask)))(x, mask))

    assert program(plain, x) == program(plain, x * u.volt) == program(declared, x * u.volt)


@every_norm
def test_masked_input_is_passed_on_in_the_output_unit(kind: str) -> None:
    mask = np.arange(6) < 4
    layer = NORMS[kind].layer(6, unit=u.mV, out_unit=u.uvolt, masked_output="input")
    y = layer(in_prefix("V", volts(5, 6)), mask=mask)
    np.testing.assert_allclose((y / u.volt)[:, 4:], volts(5, 6)[:, 4:], rtol=1e-6)


@every_norm
def test_gradients_through_units(kind: str) -> None:
    """The gradient by millivolts is a thousandth of that by volts."""
    layer = NORMS[kind].layer(6, unit=u.mV, out_unit=u.UNITLESS, epsilon=1.0)
    weights = draw(5, 6, seed=3)

    def loss(x: Any) -> jax.Array:
        return jnp.sum(layer(x) * weights)

    def gradient(prefix: str) -> np.ndarray:
        return np.asarray(u.get_mantissa(brainstate.transform.grad(loss)(in_prefix(prefix, volts(5, 6)))))

    want = NORMS[kind].reference
    numeric = reference.jacobian(lambda x: np.sum(want(x, epsilon=1.0) * weights), volts(5, 6) * 1e3)
    np.testing.assert_allclose(gradient("mV"), numeric, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient("V"), 1e3 * numeric, rtol=1e-4, atol=1e-3)


def test_moments_carry_their_units() -> None:
    x = volts(5, 6)
    count, mean, var = functional.moments(in_prefix("V", x), unit=u.mV)
    assert (u.get_unit(mean), u.get_unit(var)) == (u.mV, u.mV**2)
    np.testing.assert_array_equal(count, 6)
    np.testing.assert_allclose(mean / u.volt, x.astype(float).mean(-1), rtol=1e-6)
    np.testing.assert_allclose(var / u.volt**2, x.astype(float).var(-1), rtol=1e-5)


def test_functional_scale_and_bias_may_carry_units() -> None:
    x = in_prefix("V", volts(5, 6))
    y = functional.layer_norm(x, 2.0 * u.mA, 100.0 * u.uA)
    np.testing.assert_allclose(y / u.mA, reference.layer_norm(volts(5, 6), scale=2.0, bias=0.1), rtol=1e-4, atol=1e-5)


@every_norm
def test_a_declared_unit_refuses_plain_arrays_and_other_dimensions(kind: str) -> None:
    layer = NORMS[kind].layer(6, unit=u.mV, name="soma")
    with pytest.raises(UnitError, match=r"Norm 'soma': the norm is declared with unit=mV, but got a plain array"):
        layer(volts(5, 6))
    with pytest.raises(UnitError, match=r"Norm 'soma': the norm is declared with unit=mV, but got an input in nA"):
        layer(volts(5, 6) * u.nA)


def test_shifting_a_quantity_into_a_layer() -> None:
    """``Quantity >> layer`` gives the layer the bare mantissa; a declared unit does not let that pass in silence."""
    x = jnp.asarray(volts(5, 6)) * u.volt
    with pytest.raises(UnitError, match="plain array"):
        x >> LayerNorm(6, unit=u.mV)
    y = x >> LayerNorm(6, epsilon=25e-6)
    np.testing.assert_allclose(y / u.volt, reference.layer_norm(volts(5, 6), epsilon=25e-6), rtol=1e-5, atol=1e-5)


@every_norm
def test_a_half_input_is_passed_through_in_another_prefix_with_the_digits_of_the_output(kind: str) -> None:
    x = jnp.full((2, 6), 7, jnp.float16) * u.mV
    options = {"mask": np.arange(6) < 4, "masked_output": "input", "out_unit": u.volt}
    y = NORMS[kind].function(x, scale=jnp.ones(6), **options)
    np.testing.assert_allclose(y.to_decimal(u.volt)[:, 4:], 0.007, rtol=1e-6)
    large = NORMS[kind].function(x * 1000, **{**options, "out_unit": u.uvolt, "dtype": jnp.float32})
    np.testing.assert_allclose(large.to_decimal(u.uvolt)[:, 4:], 7e6)
