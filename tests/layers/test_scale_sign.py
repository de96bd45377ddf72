"""A scale that turns every value over is nearly always ``alpha * V_th`` with a threshold below 0: said once."""

import warnings

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.nn.init import Constant

import braindnorm
from braindnorm import monitor
from braindnorm.errors import NormWarning
from tests.support.norms import LAYERS, NORMS, weight_of

V_REST, V_TH = -65.0 * u.mV, -50.0 * u.mV


@pytest.mark.parametrize("kind", NORMS)
def test_a_scale_that_is_negative_everywhere_warns_once(kind: str) -> None:
    with pytest.warns(NormWarning) as caught:
        layer = NORMS[kind].layer(6, scale_init=Constant(0.5 * V_TH))
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(f"{LAYERS[kind].__name__}(in_size=(6,)): the initial scale is negative everywhere")
    assert "the first is -25.0 mV" in message
    assert "Constant(alpha * (V_th - V_rest))" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(jnp.arange(6.0))


def test_the_warning_points_at_the_line_that_makes_the_layer() -> None:
    for layer in LAYERS.values():
        with pytest.warns(NormWarning) as caught:
            layer(32, scale_init=Constant(-1.0))
        assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("scale", [0.5 * (V_TH - V_REST), 0.0, [-1.0, -1.0, -1.0, -1.0, -1.0, 1.0]])
def test_any_other_scale_is_silent(kind: str, scale: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NORMS[kind].layer(6, scale_init=np.array(scale) if isinstance(scale, list) else Constant(scale))


def test_a_scale_that_is_not_known_yet_is_silent() -> None:
    def first_scale(value: jax.Array) -> jax.Array:
        layer = braindnorm.LayerNorm(3, scale_init=Constant(value))
        return weight_of(layer).value["scale"][0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jax.jit(first_scale)(-2.0) == -2.0


def test_the_warning_has_one_home() -> None:
    assert monitor.NormWarning is NormWarning
    assert "NormWarning" in braindnorm.errors.__all__
    assert issubclass(NormWarning, UserWarning)
