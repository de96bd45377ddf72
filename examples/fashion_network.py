"""A convolutional spiking network with tdBN, and its training."""

import time
from collections.abc import Callable
from typing import NamedTuple

import brainpy.state
import brainstate
import braintools
import brainunit as u
import fashion_data as data
import jax.numpy as jnp
import numpy as np
import optax
from brainstate.nn.init import Constant

from braindnorm import BatchNorm

CHANNELS, SIZE = (16, 32), 28
STEP = 1 * u.ms
TAU = 2.0  # of spikingjelly's neuron, in steps: a step takes the potential half of its way
MEMBRANE = -STEP / np.log(1 - 1 / TAU)
RESISTANCE, FIRING = 1 * u.ohm, 1 * u.mV
RHEOBASE = (FIRING / RESISTANCE).in_unit(u.mA)
MOMENTUM = 0.9
BATCH, LEARNING_RATE = 64, 1e-3
SLOPE = 2.0  # of the spike function, in the backward pass


class Block(brainstate.nn.Module):
    """A convolution, a norm over time, batch and space in mA, LIF neurons, and the mean of squares of 2 by 2."""

    def __init__(self, size: int, inputs: int, outputs: int, masked: bool, normed: bool = True):
        super().__init__()
        self.masked = masked
        shape = (size, size, outputs)
        self.convolution = brainstate.nn.Conv2d((size, size, inputs), outputs, 3, padding=1)
        # tdBN: the scale begins at the current that reaches the threshold
        threshold = Constant(RHEOBASE)
        options = {"scale_initializer": threshold, "momentum": MOMENTUM, "unbiased": True}
        self.norm = BatchNorm(shape, unit=u.mA, **options) if normed else None
        self.neurons = brainpy.state.LIF(
            shape,
            R=RESISTANCE,
            tau=MEMBRANE,
            V_th=FIRING,
            spk_fun=braintools.surrogate.Arctan(alpha=SLOPE),
        )

    def update(self, x, mask):
        """Return the pooled spikes (T, batch, H / 2, W / 2, channels)."""
        current = self.convolution(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:-1], -1) * u.mA
        if self.norm is not None:
            current = self.norm(current, mask=mask[..., None, None, None] if self.masked else None)
        self.neurons.init_state(x.shape[1])
        with brainstate.environ.context(dt=STEP):
            # so few steps are written out: XLA fuses them, and the backward pass takes an eighth of a loop's
            spikes = brainstate.transform.for_loop(self.neurons, current, unroll=data.STEPS)
        steps, batch, size, _, channels = spikes.shape
        return spikes.reshape(steps, batch, size // 2, 2, size // 2, 2, channels).mean((3, 5))


class Network(brainstate.nn.Module):
    """Two blocks, and a readout of their mean over the steps that an image is shown for."""

    def __init__(
        self, masked: bool = True, size: int = SIZE, channels: tuple[int, int] = CHANNELS, normed: bool = True
    ):
        super().__init__()
        self.masked = masked
        first, second = channels
        self.blocks = [Block(size, 1, first, masked, normed), Block(size // 2, first, second, masked, normed)]
        self.readout = brainstate.nn.Linear((size // 4) ** 2 * second, data.CLASSES)

    def update(self, x, mask):
        """Return the evidence (batch, CLASSES)."""
        for block in self.blocks:
            x = block(x, mask)
        x = x.reshape(*x.shape[:2], -1)
        seen = mask if self.masked else jnp.ones_like(mask)
        return self.readout(jnp.sum(x, 0, where=seen[..., None]) / jnp.sum(seen, 0)[:, None])


class Result(NamedTuple):
    """Of one training: the loss of every batch, the accuracy on the test images, and the time of the fastest step."""

    loss: np.ndarray
    accuracy: float
    seconds: float


def cross_entropy(evidence, kind):
    """Return the mean cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(evidence, kind).mean()


class Trainer:
    """A network, and its optimizer."""

    def __init__(self, network: Network):
        self.network = network
        self.parameters = network.states(brainstate.ParamState)
        self.optimizer = optax.adam(LEARNING_RATE)
        self.moments = brainstate.ShortTermState(self.optimizer.init(self.parameters.to_dict_values()))
        self._learn = brainstate.transform.jit(self._step)
        self._decide = brainstate.transform.jit(lambda x, mask: self.network(x, mask).argmax(-1))

    def learn(self, x, mask, kind) -> float:
        """Take one step, and return the loss."""
        with brainstate.environ.context(fit=True):
            return float(self._learn(x, mask, kind))

    def decide(self, x, mask) -> np.ndarray:
        """Return what each image shows."""
        with brainstate.environ.context(fit=False):
            return np.asarray(self._decide(x, mask))

    def _step(self, x, mask, kind):
        gradients, loss = brainstate.transform.grad(
            lambda: cross_entropy(self.network(x, mask), kind), self.parameters, return_value=True
        )()
        values = self.parameters.to_dict_values()
        steps, self.moments.value = self.optimizer.update(dict(gradients), self.moments.value, values)
        self.parameters.assign_dict_values(optax.apply_updates(values, steps))
        return loss


def run(trainer, train: data.Images, test: data.Images, epochs: int, bar: Callable) -> Result:
    """Train ours or spikingjelly's network, on the same batches, and test it."""
    rng, losses, seconds = np.random.default_rng(0), [], []
    for _ in range(epochs):
        for batch in data.batches(train, rng.permutation(len(train.kind)), BATCH):
            start = time.perf_counter()
            losses.append(trainer.learn(*batch))
            seconds.append(time.perf_counter() - start)
            bar()
    right = [trainer.decide(x, mask) == kind for x, mask, kind in data.batches(test, np.arange(len(test.kind)), BATCH)]
    return Result(np.array(losses), float(np.mean(right)), min(seconds))


def fastest(trainer, batch: tuple, number: int) -> float:
    """Return the time of the fastest of so many training steps on one batch, after two that compile and warm up."""
    seconds = []
    for _ in range(number + 2):
        start = time.perf_counter()
        trainer.learn(*batch)
        seconds.append(time.perf_counter() - start)
    return min(seconds[2:])
