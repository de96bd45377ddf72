"""Folding a whole model: what is folded, what is left and why; the model gives what it gave."""

import brainpy.state
import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.nn import Linear, Sequential, init

from braindnorm import BatchNorm, LayerNorm, OverTime
from braindnorm.errors import OptionError
from braindnorm.interop import fold_norms


def trained(size: int, **options) -> BatchNorm:
    rng = np.random.default_rng(size)
    norm = BatchNorm(size, **options)
    norm.running_mean.value = jnp.asarray(rng.normal(0, 1, size), jnp.float32)
    norm.running_var.value = jnp.asarray(rng.uniform(0.1, 2, size), jnp.float32)
    return norm


def test_a_model_gives_what_it_gave() -> None:
    """Norms before, after and between; two beside one layer; one in a Sequential inside."""
    inner = Sequential(trained(4), Linear(4, 3), trained(3), trained(3, affine=False))
    model = Sequential(Linear(5, 4), trained(4), jnp.tanh, inner, LayerNorm(3))
    norms = [model[1], inner[0], inner[2], inner[3]]
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (6, 5)), jnp.float32)
    with brainstate.environ.context(fit=False):
        before = np.asarray(model(x))
        report = fold_norms(model)
        np.testing.assert_allclose(model(x), before, atol=2e-6)
    assert [type(layer).__name__ for layer in inner.layers] == ["Linear"]
    assert len(model.layers) == 4
    paths = [("layers", 1), ("layers", 3, "layers", 0), ("layers", 3, "layers", 2), ("layers", 3, "layers", 3)]
    assert [path for path, _, _ in report] == paths
    assert all(norm is old for (_, norm, _), old in zip(report, norms, strict=True))
    assert [layer for _, _, layer in report] == [model[0], *[inner[0]] * 3]
    ((path, left, reason),) = report.left
    assert path == ("layers", 4) and type(left) is LayerNorm
    assert str(report).splitlines()[0] == "folded layers.1: BatchNorm into Linear"
    assert str(report).splitlines()[-1] == f"left layers.4: {reason}"


def test_a_current_before_a_neuron() -> None:
    model = Sequential(trained(4, unit=u.nA), brainpy.state.LIF(4, R=100 * u.Mohm))
    fold_norms(model)
    (neuron,) = model.layers
    variance = np.random.default_rng(4)
    mean, var = variance.normal(0, 1, 4), variance.uniform(0.1, 2, 4)
    np.testing.assert_allclose(neuron.R.to_decimal(u.Mohm), 100 / np.sqrt(var + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(neuron.V_rest.to_decimal(u.mV), -100 * mean / np.sqrt(var + 1e-5), rtol=1e-4)


class Own(brainstate.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = trained(4)


def test_what_is_left_and_why() -> None:
    norm, linear = trained(4), Linear(4, 4, b_init=init.Constant(1.0))
    conv = brainstate.nn.Conv1d((5, 4), 4, 3)
    cases = {
        Sequential(linear, norm, norm): "the norm or the layer beside it stands in several places",
        Sequential(linear, trained(4), linear): "the norm or the layer beside it stands in several places",
        Sequential(brainpy.state.LIF(4), trained(4)): "stands beside no layer of a Sequential that takes a norm",
        Sequential(Own()): "stands beside no layer of a Sequential that takes a norm",
        Sequential(linear, OverTime(LayerNorm(4))): "OverTime takes its statistics from each input",
        Sequential(linear, brainstate.nn.BatchNorm0d((4,))): "BatchNorm0d is a norm of brainstate",
        Sequential(trained(4), conv): "Conv1d adds zeros around",
        Sequential(linear, trained(4, unit=u.mV)): "the bias of Linear is in 1",
    }
    for model, reason in cases.items():
        before = list(model.layers)
        report = fold_norms(model)
        assert not report and len(report.left) == 1, reason
        assert report.left[0].reason.startswith(reason)
        assert str(report).startswith("left layers.")
        assert all(new is old for new, old in zip(model.layers, before, strict=True))


def test_a_norm_alone() -> None:
    with pytest.raises(OptionError, match=r"fold_norms: the model is itself a BatchNorm, .* Write fold_norm\(layer, n"):
        fold_norms(trained(4))
