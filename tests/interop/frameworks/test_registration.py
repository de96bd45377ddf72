"""Whole models through the converters of brainstate itself, once they know our layers."""

import brainstate
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from brainstate import interop, nn
from flax import linen, nnx

from braindnorm import LayerNorm, RMSNorm
from braindnorm.interop import register_converters
from tests.interop.frameworks.random_values import normal


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 8), LayerNorm(8, epsilon=0.1), nn.Linear(8, 3), RMSNorm(3))
    for number, state in enumerate(net.states(brainstate.ParamState).values()):
        state.value = jax.tree.map(lambda a, seed=number: jnp.asarray(normal(a.shape, seed=seed)), state.value)
    return net


def test_models_go_out_and_come_back() -> None:
    register_converters()
    net, x = model(), normal((5, 4))
    outside = {"nnx": interop.to_nnx(net), "equinox": interop.to_equinox(net)}
    module, variables = interop.to_linen(net)
    expected = net(x)
    np.testing.assert_allclose(outside["nnx"](x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(outside["equinox"])(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    back = [
        interop.from_nnx(outside["nnx"]),
        interop.from_linen(module, variables),
        interop.from_equinox(outside["equinox"]),
    ]
    for other in back:
        assert [type(layer) for layer in other.layers] == [nn.Linear, LayerNorm, nn.Linear, RMSNorm]
        np.testing.assert_allclose(other(x), expected, rtol=1e-5, atol=1e-5)


def test_one_framework_alone() -> None:
    register_converters("nnx")
    assert type(interop.to_nnx(LayerNorm(8))) is nnx.LayerNorm
    assert type(interop.from_nnx(nnx.RMSNorm(8, rngs=nnx.Rngs(0)))) is RMSNorm


def test_norms_of_brainstate_still_go_out() -> None:
    register_converters()
    assert type(interop.to_nnx(nn.LayerNorm(8))) is nnx.LayerNorm
    assert type(interop.to_linen(nn.LayerNorm(8))[0]) is linen.LayerNorm
    assert type(interop.to_equinox(nn.LayerNorm(8))) is eqx.nn.LayerNorm
