"""The convolutional spiking network beside spikingjelly's, from the same weights, on small random images."""

import sys
from pathlib import Path

import brainstate
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import fashion_data as data
import fashion_network as ours
import fashion_peer as theirs


def test_outputs_and_gradients() -> None:
    """To 1e-5 of the largest, through tdBN, two layers of neurons and four steps."""
    rng = np.random.default_rng(0)
    with brainstate.random.seed_context(0):
        network = ours.Network(size=8, channels=(6, 5))
    net = theirs.built(network)
    x = rng.uniform(0, 1, (data.STEPS, 4, 8, 8, 1)).astype(np.float32)
    mask, kind = np.ones((data.STEPS, 4), bool), np.arange(4, dtype=np.int32)
    evidence = theirs.evidence(net.train(), x)
    torch.nn.functional.cross_entropy(evidence, torch.from_numpy(kind).long()).backward()
    found = []

    def loss():
        found.append(network(x, mask))
        return ours.cross_entropy(found[-1], kind), found[-1]

    with brainstate.environ.context(fit=True):
        gradients, output = brainstate.transform.grad(loss, network.states(brainstate.ParamState), has_aux=True)()
    close(output, evidence)
    assert np.ptp(np.asarray(output)) > 0.1
    for number in (0, 1):
        place = ("blocks", number)
        convolution, norm = net[4 * number], net[4 * number + 1]
        weight = gradients[(*place, "convolution", "weight")]["weight"]
        close(np.asarray(weight).transpose(3, 2, 0, 1), convolution.weight.grad)
        affine = gradients[(*place, "norm", "weight")]
        close(np.ravel(affine["scale"]), norm.weight.grad)
        close(np.ravel(affine["bias"]), norm.bias.grad)
    close(gradients[("readout", "weight")]["bias"], net[-1].bias.grad)
    kept = network.blocks[0].norm
    close(np.ravel(kept.running_mean.value), net[1].running_mean)
    close(np.ravel(kept.running_var.value), net[1].running_var)


def close(found, expected: torch.Tensor) -> None:
    expected = expected.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
