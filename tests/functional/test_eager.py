"""A call outside of any program runs as one, which is looked up; whatever it was called with is still seen."""

import traceback
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, cpu_kernels, functional
from braindnorm.errors import DtypeError, NormError, OptionError
from braindnorm.functional._eager import compiled_when_called
from tests.support import reference

X = np.random.default_rng(0).normal(1, 2, (3, 4)).astype(np.float32)
MASK = np.array([[True, True, False, True]] * 3)


def test_what_is_changed_on_a_layer_is_seen() -> None:
    norm = LayerNorm(4)
    x = jnp.asarray(X)

    def is_now(**options: Any) -> None:
        np.testing.assert_allclose(norm(x), reference.layer_norm(X, -1, **options), rtol=1e-5, atol=1e-5)

    is_now()
    norm.epsilon = 0.5
    is_now(epsilon=0.5)
    norm.epsilon = 1
    is_now(epsilon=1)
    norm.weight.value = {"scale": jnp.full(4, 3.0), "bias": jnp.full(4, -1.0)}
    np.testing.assert_allclose(norm(x), 3 * reference.layer_norm(X, -1, epsilon=1) - 1, rtol=1e-5, atol=1e-5)
    norm.reduction_axes = (0,)
    np.testing.assert_allclose(norm(x), 3 * reference.layer_norm(X, 0, epsilon=1) - 1, rtol=1e-5, atol=1e-5)
    norm.dtype = jnp.float16
    assert norm(x).dtype == jnp.float16
    norm.dtype, norm.out_unit = None, u.mA
    assert norm(x).unit == u.mA
    norm.unit = u.mV
    with pytest.raises(NormError, match="plain array without a unit"):
        norm(x)
    assert norm(x * u.mV).unit == u.mA


def test_masks_of_one_shape_and_of_another() -> None:
    x = jnp.asarray(X)
    for mask in (MASK, ~MASK, MASK[0], MASK[:, :1]):
        valid = np.broadcast_to(mask, X.shape)
        want = reference.layer_norm(X, -1, mask=valid)
        np.testing.assert_allclose(functional.layer_norm(x, mask=jnp.asarray(mask)), want, rtol=1e-5, atol=1e-5)
    norm = LayerNorm(4, masked_output="input")
    assert np.array_equal(norm(x, mask=jnp.asarray(MASK))[:, 2], X[:, 2])
    norm.masked_output = "zero"
    assert not norm(x, mask=jnp.asarray(MASK))[:, 2].any()


def test_what_was_right_once_does_not_admit_what_is_wrong() -> None:
    x = jnp.asarray(X)
    functional.layer_norm(x, use_fast_variance=True, epsilon=jnp.float32(1))
    with pytest.raises(OptionError, match="use_fast_variance must be True or False; got 1"):
        functional.layer_norm(x, use_fast_variance=1)
    with pytest.raises(OptionError, match="epsilon"):
        functional.layer_norm(x, epsilon=jnp.float32(-1))
    with pytest.raises(DtypeError):
        functional.layer_norm(x + 1j)
    with pytest.raises(NormError, match="scale"):
        functional.layer_norm(x, jnp.ones(3))


def test_an_error_is_shown_without_the_frames_of_jax() -> None:
    with pytest.raises(NormError) as raised:
        functional.layer_norm(jnp.asarray(X), jnp.ones(3), epsilon=0.25)
    shown = "".join(traceback.format_exception(raised.value))
    assert "internal frames" not in shown
    assert "During handling" not in shown


def test_units_that_are_equal_come_back_as_they_came() -> None:
    ohms = u.volt / u.amp
    for unit in (u.mV, u.volt, u.ohm, ohms, u.UNITLESS):
        x = u.Quantity(jnp.asarray(X), unit=unit)
        y = functional.layer_norm(x)
        assert str(u.get_unit(y)) == str(unit)
        np.testing.assert_allclose(u.get_mantissa(y), reference.layer_norm(X, -1), rtol=1e-5, atol=1e-5)


def test_units_that_are_equal_keep_their_own_names() -> None:
    """A hertz equals a becquerel, and the result is in the one that was asked for."""
    x, ones = jnp.asarray(X), jnp.ones(4)
    for unit in (u.hertz, u.becquerel):
        assert str(functional.layer_norm(x, out_unit=unit).unit) == str(unit)
        assert str(functional.layer_norm(x, ones * unit).unit) == str(unit)
        for arrived in (u.hertz, u.becquerel):
            assert str(functional.layer_norm(x * arrived, unit=unit).unit) == str(unit)


def test_python_reads_the_options_once() -> None:
    calls = []

    @compiled_when_called
    def norm(x: Any, **options: Any) -> Any:
        calls.append(options)
        return x

    for _ in range(3):
        norm(jnp.ones(3), epsilon=1.0)
    assert len(calls) == 1
    norm(jnp.ones(3), epsilon=2.0)
    norm(jnp.ones(4), epsilon=2.0)  # traced for another shape
    assert len(calls) == 3
    for x in (np.ones(3), [1.0, 2.0]):
        norm(x, epsilon=1.0)
    norm(jnp.ones(3), epsilon=jnp.float32(1))
    norm(jnp.ones(3), axis_name="neurons")
    assert len(calls) == 7
    with cpu_kernels.disabled():
        norm(jnp.ones(3), epsilon=2.0)
    assert len(calls) == 7 + cpu_kernels.enabled()


def test_within_a_program_it_leaves_no_trace() -> None:
    """Arrays that a program closes over have values, but what is computed from them belongs to it."""
    x = jnp.asarray(X)
    functional.layer_norm(x)
    inside = jax.jit(lambda y: functional.layer_norm(x) + y).lower(x).as_text()
    assert "_run" not in inside
    assert "rsqrt" in inside
    with brainstate.environ.context(precision=64):
        assert functional.layer_norm(jnp.asarray(X.astype(float))).dtype == np.float64
    with pytest.raises(TypeError):
        functional.layer_norm(x, x=x)
