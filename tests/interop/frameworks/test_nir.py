"""Graphs of NIR: written, read back by nir, and run by a reference that follows NIR's definitions; in SI units."""

from pathlib import Path

import brainpy.state
import brainstate
import braintools
import brainunit as u
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from brainstate.nn import Conv1d, Conv2d, Flatten, Linear, OneToOne, Sequential, init

from braindnorm import BatchNorm, LayerNorm
from braindnorm.errors import ConversionError
from braindnorm.interop import to_nir

STEP = 1.0 * u.ms
REST = -65 * u.mV


def run(graph: nir.NIRGraph, xs: np.ndarray) -> np.ndarray:
    """Run a chain of NIR on a sequence, by the equations in the docstrings of nir, in float64."""
    (name,) = graph.inputs
    following = dict(graph.edges)
    while (name := following[name]) not in graph.outputs:
        node = graph.nodes[name]
        xs = neuron(node, xs) if isinstance(node, nir.LIF) else np.stack([at_once(node, x) for x in xs])
    return xs


def at_once(node: nir.NIRNode, x: np.ndarray) -> np.ndarray:
    match node:
        case nir.Affine():
            return node.weight.astype(float) @ x + node.bias
        case nir.Linear():
            return node.weight.astype(float) @ x
        case nir.Scale():
            return x * node.scale
        case nir.Threshold():
            return (x > node.threshold).astype(float)
        case nir.Flatten():
            return x.reshape(-1)
        case nir.Conv1d() | nir.Conv2d():
            return convolved(node, x)
    raise AssertionError(type(node))


def convolved(node: nir.Conv1d | nir.Conv2d, x: np.ndarray) -> np.ndarray:
    stride, padding, dilation = (np.ravel(v).astype(int) for v in (node.stride, node.padding, node.dilation))
    x = np.pad(x, [(0, 0), *[(p, p) for p in padding]])
    outputs, per_group, *kernel = node.weight.shape
    size = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[1:], kernel, dilation, stride, strict=True)]
    y = np.zeros((outputs, *size))
    for channel in range(outputs):
        first = channel // (outputs // node.groups) * per_group
        for place in np.ndindex(*size):
            window = [slice(p * s, p * s + (k - 1) * d + 1, d)
                      for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)]  # fmt: skip
            part = x[(slice(first, first + per_group), *window)]
            y[(channel, *place)] = (node.weight[channel].astype(float) * part).sum() + node.bias[channel]
    return y


def neuron(node: nir.LIF, currents: np.ndarray) -> np.ndarray:
    """tau dv/dt = v_leak - v + R I, exactly for a current that is constant within a step; begins at v_leak."""
    values = (node.tau, node.r, node.v_leak, node.v_threshold, node.v_reset)
    tau, r, leak, threshold, reset = (value.astype(float) for value in values)
    v, decay, spikes = leak, np.exp(-STEP.to_decimal(u.second) / tau), []
    for current in currents:
        v = leak + r * current + (v - leak - r * current) * decay
        spikes.append(v > threshold)
        v = np.where(v > threshold, reset, v)
    return np.array(spikes, float)


def again(model, path: Path) -> nir.NIRGraph:
    nir.write(path / "graph.nir", to_nir(model))
    return nir.read(path / "graph.nir")


def trained(norm: BatchNorm, low: float = -1.0) -> BatchNorm:
    rng = np.random.default_rng(0)
    shape = norm.running_mean.value.shape
    norm.running_mean.value = jnp.asarray(rng.normal(0, 0.2, shape), jnp.float32)
    norm.running_var.value = jnp.asarray(rng.uniform(0.1, 2, shape), jnp.float32)
    scale, bias = rng.uniform(low, 1.5, shape), rng.normal(0, 0.2, shape)
    norm.weight.value = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    return norm


def cells(size, **options) -> brainpy.state.LIF:
    rng = np.random.default_rng(1)
    thresholds = jnp.asarray(rng.uniform(-60, -50, size), jnp.float32) * u.mV
    given = {"R": 100 * u.Mohm, "tau": 10 * u.ms, "V_rest": REST, "V_reset": -70 * u.mV, "V_th": thresholds}
    return brainpy.state.LIF(size, spk_reset="hard", V_initializer=init.Constant(REST), **given | options)


def sequence(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, shape).astype(np.float32)


def outputs_of(model, xs) -> np.ndarray:
    brainstate.nn.init_all_states(model)
    with brainstate.environ.context(dt=STEP, fit=False):
        return np.asarray(brainstate.transform.for_loop(model, xs))


def in_nA(scale: float) -> dict:
    return {"w_init": init.Normal(scale, unit=u.nA), "b_init": init.Normal(scale, unit=u.nA)}


def test_a_spiking_network_gives_the_same_spikes(tmp_path: Path) -> None:
    """Two layers of synapses, norms and neurons; 300 steps; a plain layer before, a norm in nA between."""
    with brainstate.random.seed_context(0):
        model = Sequential(
            OneToOne((5,)),
            Linear(5, 8, **in_nA(0.2)),
            trained(BatchNorm(8, unit=u.nA)),
            cells(8),
            Sequential(Linear(8, 6, **in_nA(0.4)), trained(BatchNorm(6, unit=u.nA), low=0.5), cells(6)),
        )
    xs = sequence(300, 5)
    graph = again(model, tmp_path)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert sorted(kinds) == ["Affine", "Affine", "Input", "LIF", "LIF", "Output", "Scale"]
    expected = outputs_of(model, xs)
    np.testing.assert_array_equal(run(graph, xs), expected)
    assert (expected.sum(0) > 5).sum() >= 4 and expected.mean() < 0.5
    assert len(model.layers) == 5  # the model is as it was


def test_values_are_in_si_units() -> None:
    graph = to_nir(Sequential(Linear(2, 3, w_init=init.Constant(2 * u.pA), b_init=None), cells(3)))
    node = graph.nodes["lif"]
    np.testing.assert_allclose(graph.nodes["linear"].weight, np.full((3, 2), 2e-12), rtol=1e-6)
    for found, expected in ((node.tau, 0.01), (node.r, 1e8), (node.v_leak, -0.065), (node.v_reset, -0.07)):
        np.testing.assert_allclose(found, np.full(3, expected), rtol=1e-6)


@pytest.mark.parametrize("size", [(6,), (6, 5)])
def test_convolutions_flattened(size: tuple[int, ...], tmp_path: Path) -> None:
    """Channels are last here and first in NIR: weights, thresholds and what stands behind Flatten are put in order."""
    kind = {1: Conv1d, 2: Conv2d}[len(size)]
    first = kind((*size, 4), 6, 3, groups=2, b_init=init.Normal(1.0))
    second = kind(first.out_size, 4, 2, stride=2, padding=1)
    flat = int(np.prod(second.out_size))
    model = Sequential(
        first,
        trained(BatchNorm(first.out_size)),
        second,
        OneToOne(second.out_size, w_init=init.Normal(1.0, unit=u.nA)),
        cells(second.out_size),
        Flatten(in_size=second.out_size),
        OneToOne((flat,), w_init=init.Normal(1.0), b_init=init.Normal(1.0)),
        Linear(flat, 3, w_mask=sequence(flat, 3) > 0),
    )
    xs = 3 * sequence(20, *size, 4)
    found = run(again(model, tmp_path), np.moveaxis(xs, -1, 1))
    expected = outputs_of(model, xs)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.ptp(expected, axis=0).min() > 0  # there are spikes


def test_a_norm_before_a_spike_function_is_a_threshold(tmp_path: Path) -> None:
    norm = trained(BatchNorm(5, unit=u.mV, out_unit=u.UNITLESS), low=0.5)
    graph = again(Sequential(norm, braintools.surrogate.ReluGrad()), tmp_path)
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Input", "Output", "Threshold"]
    xs = sequence(50, 5)
    mean, var = np.float64(norm.running_mean.value), np.float64(norm.running_var.value)
    normed = (xs - mean) / np.sqrt(var + 1e-5) * np.float64(norm.weight.value["scale"]) + norm.weight.value["bias"]
    np.testing.assert_array_equal(run(graph, xs * 1e-3), normed > 0)
    graph = to_nir(Sequential(Linear(5, 2), braintools.surrogate.ReluGrad()))
    np.testing.assert_array_equal(graph.nodes["threshold"].threshold, np.zeros(2))


def test_what_has_no_node() -> None:
    norm, spike = trained(BatchNorm(4)), braintools.surrogate.ReluGrad()
    cases = {
        Sequential(Linear(2, 4), LayerNorm(4)): r"to_nir: LayerNorm\(in_size=\(4,\)\) does not fold, and NIR has no",
        Sequential(cells(4), norm): "BatchNorm has no node in NIR here",
        Sequential(norm, spike): r"BatchNorm turns what is above the threshold into below: channel",
        Sequential(Linear(2, 4), jnp.tanh): "tanh has no node in NIR here. to_nir takes a Sequential of Linear, ",
        Linear((3, 2), (3, 4)): r"Linear has in_size=\(3, 2\), and a Linear of NIR takes a vector",
        OneToOne((3, 2), b_init=init.Constant(1.0)): r"OneToOne has a bias for in_size=\(3, 2\), and an Affine of NIR",
        brainstate.nn.Conv3d((3, 3, 3, 1), 1, 2): "Conv3d has no node in NIR",
        Conv1d((6, 2), 2, 2, lhs_dilation=2, padding=0): r"Conv1d has lhs_dilation=\(2,\), which NIR lacks",
        Conv1d((6, 2), 2, 2): r"Conv1d pads by \[\(0, 1\)\] \(padding='SAME'\), and NIR by the same number",
        Conv2d((6, 6, 2), 2, (3, 1), padding="VALID"): r"Conv2d has kernel_size=\(3, 1\), and nir takes the first",
        Sequential(Flatten()): r"Flatten does not know the size of its input\. Give it in_size",
        brainpy.state.LIF(4): r"LIF has spk_reset='soft', and a LIF of NIR is reset",
    }
    for model, message in cases.items():
        with pytest.raises(ConversionError, match=message):
            to_nir(model)
    with pytest.raises(ConversionError, match="a spike function does not know the size of its input"):
        to_nir(spike)
    neurons = cells(4)
    neurons.add_current_input("noise", 1.0 * u.nA)
    with pytest.raises(ConversionError, match="LIF has inputs besides the layer before it"):
        to_nir(neurons)
