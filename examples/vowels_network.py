"""The recurrent spiking network that tells speakers apart, and the six ways to normalize that the example compares."""

from collections.abc import Callable

import brainpy.state
import brainstate
import brainunit as u
import jax.numpy as jnp
from brainstate.nn.init import Constant, Orthogonal
from vowels_data import CHANNELS, FRAME, LONGEST, SPEAKERS

from braindnorm import BatchNorm, LayerNorm, tdbn
from braindnorm.interop import fold_norm

REST, FIRING = -65 * u.mV, -50 * u.mV
RESISTANCE = 100 * u.Mohm
RHEOBASE = ((FIRING - REST) / RESISTANCE).in_unit(u.nA)  # the weakest current that makes a neuron fire
MEMBRANE = 20 * u.ms
NEURONS, LAYERS = 64, 2
SCALE = 3 * RHEOBASE  # of a normalized current, at first
MOMENTUM = 0.9  # of an update
TIME, CHANNEL = -3, -1  # of (time, batch, channel)


class Masked(brainstate.nn.Module):
    """BatchNorm of braindnorm: in nA, its statistics those of the valid frames of all steps and utterances."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNorm(NEURONS, unit=u.nA, scale_initializer=Constant(SCALE), momentum=MOMENTUM)

    def update(self, current, mask):
        return self.norm(current, mask=mask)


class Threshold(Masked):
    """tdBN (H. Zheng et al. 2021): the scale begins at the threshold, here as the current that reaches it."""

    def __init__(self):
        super().__init__()
        self.norm = tdbn(NEURONS, RHEOBASE, unit=u.nA, momentum=MOMENTUM)


class Unmasked(Masked):
    """The same as the first, its statistics diluted by the padding."""

    def update(self, current, mask):
        return self.norm(current)


class InTheLoop(brainstate.nn.Module):
    """brainstate.nn.BatchNorm0d as it is used in a loop: step by step, without mask, the unit stripped by hand.

    It makes an update each step, so its momentum is that of an update, shared among the steps.
    """

    def __init__(self):
        super().__init__()
        scale = Constant(SCALE.to_decimal(u.nA))
        share = MOMENTUM ** (1 / LONGEST)
        self.norm = brainstate.nn.BatchNorm0d((NEURONS,), scale_initializer=scale, momentum=share)

    def update(self, current, mask):
        return brainstate.transform.for_loop(self.norm, current.to_decimal(u.nA)) * u.nA


class OfLayer(brainstate.nn.Module):
    """LayerNorm of braindnorm: each utterance by the valid frames of its own."""

    def __init__(self):
        super().__init__()
        self.norm = LayerNorm(NEURONS, (TIME, CHANNEL), unit=u.nA, scale_init=Constant(SCALE))

    def update(self, current, mask):
        return self.norm(current, mask=mask)


class NoNorm(brainstate.nn.Module):
    """No statistics: fixed numbers bring the currents to the same scale."""

    def update(self, current, mask):
        return current / u.nA * SCALE


ARMS = {
    "BatchNorm, mask": Masked,
    "tdBN, mask": Threshold,
    "BatchNorm, no mask": Unmasked,
    "brainstate.nn, in the loop": InTheLoop,
    "LayerNorm, mask": OfLayer,
    "no norm": NoNorm,
}


class Folded(brainstate.nn.Module):
    """What is left of a norm that the synapses have taken over."""

    def update(self, current, mask):
        return current


class SpikingLayer(brainstate.nn.Module):
    """Synapses, a norm of the current that they bring, and recurrent leaky integrate-and-fire neurons."""

    def __init__(self, num_inputs: int, arm: Callable):
        super().__init__()
        self.synapses = brainstate.nn.Linear(num_inputs, NEURONS)  # in nA
        self.norm = arm()
        self.recurrent = brainstate.nn.Linear(NEURONS, NEURONS, w_init=Orthogonal(scale=0.5), b_init=None)
        self.neurons = brainpy.state.LIF(
            NEURONS,
            R=RESISTANCE,
            tau=MEMBRANE,
            V_rest=REST,
            V_reset=REST,
            V_th=FIRING,
            V_initializer=Constant(REST),
        )

    def update(self, x, mask):
        """Run the layer over whole utterances (time, batch, channel) and return its spikes."""
        current = self.synapses(x)
        if not isinstance(current, u.Quantity):  # the folded synapses know their unit
            current = current * u.nA
        current = self.norm(current, mask)
        self.neurons.init_state(x.shape[1])
        spikes = brainstate.HiddenState(jnp.zeros(current.shape[1:]))

        def step(feedforward):
            spikes.value = self.neurons(feedforward + self.recurrent(spikes.value) * RHEOBASE)
            return spikes.value

        with brainstate.environ.context(dt=FRAME):
            return brainstate.transform.for_loop(step, current)


class Network(brainstate.nn.Module):
    """Spiking layers, and a readout of the mean rates over the valid frames."""

    def __init__(self, arm: Callable):
        super().__init__()
        self.layers = [SpikingLayer(CHANNELS if first else NEURONS, arm) for first in (True, *[False] * (LAYERS - 1))]
        self.readout = brainstate.nn.Linear(NEURONS, SPEAKERS)

    def spikes(self, x, mask) -> list:
        """Return the spikes of every layer, (time, batch, neurons)."""
        found = []
        for layer in self.layers:
            x = layer(x, mask)
            found.append(x)
        return found

    def update(self, x, mask):
        """Return the evidence (batch, SPEAKERS) for each speaker."""
        rate = jnp.sum(self.spikes(x, mask)[-1], TIME, where=mask) / jnp.sum(mask, TIME)
        return self.readout(rate)

    def fold(self) -> None:
        """Fold every norm into the synapses before it."""
        for layer in self.layers:
            layer.synapses = fold_norm(layer.synapses, layer.norm.norm, between=u.nA)
            layer.norm = Folded()
