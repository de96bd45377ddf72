"""The same network in spikingjelly, with the same initial weights."""

import fashion_data as data
import numpy as np
import torch
from fashion_network import LEARNING_RATE, SLOPE, TAU, Network
from spikingjelly.activation_based import functional, layer, neuron, surrogate


def built(network: Network) -> torch.nn.Sequential:
    """Return spikingjelly's network with the layers and the weights of ours."""
    parts: list[torch.nn.Module] = []
    for block in network.blocks:
        weight = np.array(block.convolution.weight.value["weight"]).transpose(3, 2, 0, 1).copy()
        convolution = layer.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        convolution.weight.data = torch.from_numpy(weight)
        cell = neuron.LIFNode(tau=TAU, v_reset=None, surrogate_function=surrogate.ATan(SLOPE))
        tdbn = layer.ThresholdDependentBatchNorm2d(1.0, 1.0, weight.shape[0])
        norm = torch.nn.Identity() if block.norm is None else tdbn
        parts += [convolution, norm, cell, layer.AvgPool2d(2)]
    readout = torch.nn.Linear(*network.readout.in_size, data.CLASSES)
    readout.weight.data = torch.from_numpy(_channels_first(network))
    readout.bias.data = torch.from_numpy(np.array(network.readout.weight.value["bias"]))
    net = torch.nn.Sequential(*parts, layer.Flatten(), readout)
    functional.set_step_mode(net, "m")
    return net


def _channels_first(network: Network) -> np.ndarray:
    """Return the weights of the readout, of images whose channels come first."""
    size, size, channels = network.blocks[-1].neurons.in_size
    weight = np.array(network.readout.weight.value["weight"])
    return weight.reshape(size // 2, size // 2, channels, -1).transpose(3, 2, 0, 1).reshape(weight.shape[1], -1).copy()


def evidence(net: torch.nn.Sequential, x: np.ndarray) -> torch.Tensor:
    """Return the evidence (batch, CLASSES) of images (T, batch, H, W, 1)."""
    functional.reset_net(net)
    return net(torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 2)))).mean(0)


class Trainer:
    """The network, and its optimizer."""

    def __init__(self, network: Network):
        self.net = built(network)
        self.optimizer = torch.optim.Adam(self.net.parameters(), LEARNING_RATE)

    def learn(self, x, mask, kind) -> float:
        """Take one step, and return the loss; there are no masks."""
        self.net.train()
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(evidence(self.net, x), torch.from_numpy(kind).long())
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def decide(self, x, mask) -> np.ndarray:
        """Return what each image shows."""
        self.net.eval()
        with torch.no_grad():
            return evidence(self.net, x).argmax(-1).numpy()
