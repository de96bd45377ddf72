"""Law L7: the dtype of the result."""

from typing import Any

import brainevent
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm.errors import DtypeError
from tests.support.norms import NORMS, draw, float64, parameters, weight_of

every_norm = pytest.mark.parametrize("kind", NORMS)
FLOATS = ["float16", "bfloat16", "float32"]


def dtype_of(norm: Any, x: Any) -> Any:
    """Return the dtype that a call would give, without the call."""
    (y,) = jax.tree.leaves(jax.eval_shape(norm, x))
    return y.dtype


@pytest.mark.parametrize("parameter", [None, *FLOATS])
@pytest.mark.parametrize("given", FLOATS)
@every_norm
def test_input_and_parameters_are_promoted(kind: str, given: str, parameter: str | None) -> None:
    x = jnp.asarray(draw(2, 6), given)
    scale = None if parameter is None else jnp.ones(6, parameter)
    want = x.dtype if scale is None else jnp.promote_types(x.dtype, scale.dtype)
    norm = NORMS[kind].function
    assert dtype_of(lambda x: norm(x, scale=scale), x) == want
    assert dtype_of(lambda x: norm(x, scale=scale, mask=np.arange(6) < 4), x) == want
    assert dtype_of(lambda x: norm(x, scale=scale, unit=u.volt), x * u.mV) == want


@pytest.mark.parametrize("given", [*FLOATS, "int32", "bool"])
@pytest.mark.parametrize("asked", FLOATS)
@every_norm
def test_what_is_asked_for(kind: str, given: str, asked: str) -> None:
    x = jnp.asarray(draw(2, 6) > 0, given)
    options = {"use_bias": False} if kind != "RMSNorm" else {}
    for layer in (NORMS[kind].layer(6, dtype=asked), NORMS[kind].layer(6, dtype=jnp.dtype(asked), **options)):
        assert dtype_of(layer, x) == asked
    assert dtype_of(lambda x: NORMS[kind].function(x, dtype=asked, masked_output="input", mask=True), x) == asked


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "uint32"])
@every_norm
def test_spikes_become_float(kind: str, dtype: str) -> None:
    spikes = (draw(3, 8) > 0.3).astype(dtype)
    layer = NORMS[kind].layer(8)
    for form in (spikes, jnp.asarray(spikes), brainevent.BinaryArray(jnp.asarray(spikes))):
        y = layer(form)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, NORMS[kind].reference(spikes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [list, tuple], ids=["list", "tuple"])
@every_norm
def test_python_numbers(kind: str, form: Any) -> None:
    x = form([1, 2, 3, 5])
    y = NORMS[kind].function(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, NORMS[kind].reference(np.array(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", FLOATS)
@every_norm
def test_a_call_gives_the_dtype_that_it_promises(kind: str, given: str) -> None:
    """The promise is that of the trace, which the other tests read."""
    x, norm = jnp.asarray(draw(2, 6), given), NORMS[kind].function
    for asked in (None, "float16"):
        assert norm(x, dtype=asked).dtype == dtype_of(lambda x: norm(x, dtype=asked), x)  # noqa: B023


@every_norm
def test_events_and_states(kind: str) -> None:
    spikes = draw(3, 8) > 0.3
    layer = NORMS[kind].layer(8)
    want = layer(spikes)
    np.testing.assert_array_equal(layer(brainevent.BinaryArray(jnp.asarray(spikes, jnp.float32))), want)
    np.testing.assert_array_equal(layer(brainstate.ShortTermState(jnp.asarray(spikes))), want)


@pytest.mark.parametrize("built_in_x64", [True, False], ids=["built in x64", "built before"])
@every_norm
def test_float64_stays_whenever_the_layer_was_built(kind: str, built_in_x64: bool) -> None:
    layer = None if built_in_x64 else NORMS[kind].layer(6)
    x = draw(2, 6).astype(float) - 65
    with float64():
        layer = layer or NORMS[kind].layer(6)
        assert next(iter(weight_of(layer).value.values())).dtype == ("float64" if built_in_x64 else "float32")
        y = layer(x)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, NORMS[kind].reference(x, **parameters(layer)), rtol=1e-9, atol=1e-10)
        assert layer(x.astype(np.float32)).dtype == ("float64" if built_in_x64 else "float32")


@every_norm
def test_x64_by_the_flag_of_jax_too(kind: str) -> None:
    x = draw(2, 6).astype(float)
    layer = NORMS[kind].layer(6)
    with jax.enable_x64(True):
        y = layer(x)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, NORMS[kind].reference(x), rtol=1e-9, atol=1e-10)
    assert layer(draw(2, 6)).dtype == jnp.float32


@every_norm
def test_a_half_precision_environment(kind: str) -> None:
    with brainstate.environ.context(precision="bf16"):
        layer = NORMS[kind].layer(6)
        assert layer(jnp.asarray(draw(2, 6), jnp.bfloat16)).dtype == jnp.bfloat16


@every_norm
def test_complex_is_refused(kind: str) -> None:
    layer = NORMS[kind].layer(6)
    with pytest.raises(DtypeError, match=r"the input is complex \(complex64\)"):
        layer(draw(2, 6) + 1j * draw(2, 6, seed=1))
    with pytest.raises(DtypeError, match="scale or bias is complex"):
        NORMS[kind].function(draw(2, 6), scale=1j)
    with pytest.raises(DtypeError, match="scale_init makes a complex scale"):
        NORMS[kind].layer(6, scale_init=lambda shape: jnp.full(shape, 1j))


@every_norm
def test_gradients_keep_the_dtype_of_the_input(kind: str) -> None:
    layer = NORMS[kind].layer(6)
    for dtype in FLOATS:
        x = jnp.asarray(draw(2, 6), dtype)
        assert jax.grad(lambda x: layer(x).astype(jnp.float32).sum())(x).dtype == dtype
