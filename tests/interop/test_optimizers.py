"""Optimizers that users have step the parameters of layers with units, and change no unit by it."""

import brainstate
import braintools
import brainunit as u
import jax
import numpy as np
import optax
import pytest

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, RMSNorm

LAYERS = {
    "layer": lambda: LayerNorm(8, unit=u.mV, out_unit=u.nA, scale_init=brainstate.nn.init.Constant(2.0)),
    "rms": lambda: RMSNorm(8, unit=u.mV, scale_init=brainstate.nn.init.Constant(3.0 * u.nA)),
    "group": lambda: GroupNorm(8, num_groups=2, reduction_axes=-1, unit=u.mV, out_unit=u.nA),
    "divisive": lambda: DivisiveNorm(8, sigma=5 * u.mV, gamma=2 * u.nA, rectify=False),
}
RNG = np.random.default_rng(0)
X = RNG.normal(-65, 10, (16, 8)).astype(np.float32) * u.mV
TARGET = RNG.normal(0, 3, (16, 8)).astype(np.float32) * u.nA


def loss_of(norm):
    def loss():
        return (((norm(X) - TARGET) / u.nA) ** 2).mean()

    return loss


@pytest.fixture(params=LAYERS)
def norm(request):
    return LAYERS[request.param]()


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSprop", "Lamb"])
def test_braintools(norm, kind):
    parameters = norm.states(brainstate.ParamState)
    optimizer = getattr(braintools.optim, kind)(lr=1e-3)
    optimizer.register_trainable_weights(parameters)
    gradients = brainstate.transform.grad(loss_of(norm), parameters, return_value=True)

    @brainstate.transform.jit
    def step():
        found, loss = gradients()
        optimizer.update(found)
        return loss

    check_training(norm, step)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lion"])
def test_optax(norm, kind):
    parameters = norm.states(brainstate.ParamState)
    optimizer = getattr(optax, kind)(1e-3)
    gradients = brainstate.transform.grad(loss_of(norm), parameters, return_value=True)
    moments = brainstate.ShortTermState(optimizer.init(parameters.to_dict_values()))

    @brainstate.transform.jit
    def step():
        found, loss = gradients()
        values = parameters.to_dict_values()
        updates, moments.value = optimizer.update(dict(found), moments.value, values)
        for path, value in optax.apply_updates(values, updates).items():
            parameters[path].value = value
        return loss

    check_training(norm, step)


def check_training(norm, step):
    """The loss falls, every parameter moves, and stays a plain array of its shape and dtype."""
    before = jax.tree.map(np.asarray, norm.states(brainstate.ParamState).to_dict_values())
    losses = [float(step()) for _ in range(20)]
    after = norm.states(brainstate.ParamState).to_dict_values()
    assert losses[-1] < losses[0]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert isinstance(new, jax.Array)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert (np.asarray(new) != old).any()
    assert norm(X).unit == u.nA
