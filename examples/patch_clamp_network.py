"""The spiking network, and the four ways to normalize that the example compares."""

from dataclasses import dataclass

import brainpy.state
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
from brainstate.nn.init import Constant, Orthogonal
from patch_clamp_data import STEP

from braindnorm import LayerNorm

REST, FIRING = -65 * u.mV, -50 * u.mV
RESISTANCE = 100 * u.Mohm
RHEOBASE = ((FIRING - REST) / RESISTANCE).in_unit(u.nA)  # the weakest current that makes a neuron fire
MEMBRANE = 10 * u.ms
HIDDEN = 32
HALF_ACTIVATION = jnp.array([-60.0, -55.0, -50.0, -45.0, -40.0, -30.0, -15.0, 0.0, 15.0]) * u.mV
SLOPE = 3 * u.mV
TIME, CHANNEL = -3, -1  # of (time, batch, channel)


@dataclass(frozen=True)
class Site:
    """A place for a norm: how one segment is normalized there, and fixed numbers for the network that has no norm."""

    channels: int
    axes: tuple[int, ...]  # that the statistics of a segment run over
    scale: u.Quantity | float  # of what leaves, at first
    centre: u.Quantity  # of what arrives, roughly
    spread: u.Quantity


VOLTAGE = Site(channels=4, axes=(TIME, CHANNEL), scale=1.0, centre=-50 * u.mV, spread=10 * u.mV)
CURRENT = Site(channels=HIDDEN, axes=(TIME,), scale=3 * RHEOBASE, centre=0 * u.nA, spread=1 * u.nA)


class WithMask(brainstate.nn.Module):
    """braindnorm as it is meant: units in, units out, statistics of the valid samples."""

    def __init__(self, site: Site):
        super().__init__()
        self.norm = LayerNorm(
            site.channels,
            site.axes,
            unit=u.get_unit(site.spread),
            out_unit=u.get_unit(site.scale),
            scale_init=Constant(site.scale),
        )

    def update(self, x, mask):
        return self.norm(x, mask=mask)


class WithoutMask(WithMask):
    """braindnorm with units, its statistics diluted by the padding."""

    def update(self, x, mask):
        return self.norm(x)


class UnitsByHand(brainstate.nn.Module):
    """brainstate.nn, which takes no units: they are taken off before the norm and put on again behind it."""

    def __init__(self, site: Site):
        super().__init__()
        self.unit, self.out_unit = u.get_unit(site.spread), u.get_unit(site.scale)
        scale = u.get_mantissa(site.scale)
        self.norm = brainstate.nn.LayerNorm(site.channels, site.axes, scale_init=Constant(scale))

    def update(self, x, mask):
        return u.maybe_decimal(self.norm(x.to_decimal(self.unit)) * self.out_unit)


class NoNorm(brainstate.nn.Module):
    """No statistics: fixed numbers bring the values to the same scale."""

    def __init__(self, site: Site):
        super().__init__()
        self.site = site

    def update(self, x, mask):
        return (x - self.site.centre) / self.site.spread * self.site.scale


ARMS = {
    "braindnorm, mask": WithMask,
    "braindnorm, no mask": WithoutMask,
    "brainstate.nn, no units": UnitsByHand,
    "no norm": NoNorm,
}


class SpikingLayer(brainstate.nn.Module):
    """Synapses, a norm of the current that they bring, and recurrent leaky integrate-and-fire neurons."""

    def __init__(self, num_inputs: int, arm: type):
        super().__init__()
        self.synapses = brainstate.nn.Linear(num_inputs, HIDDEN)
        self.norm = arm(CURRENT)
        self.recurrent = brainstate.nn.Linear(HIDDEN, HIDDEN, w_init=Orthogonal(scale=0.5))
        self.neurons = brainpy.state.LIF(
            HIDDEN,
            R=RESISTANCE,
            tau=MEMBRANE,
            V_rest=REST,
            V_reset=REST,
            V_th=FIRING,
            V_initializer=Constant(REST),
        )

    def update(self, x, mask):
        """Run the layer over a whole sequence (time, batch, channel) and return its spikes."""
        current = self.norm(self.synapses(x) * u.nA, mask)
        self.neurons.init_state(x.shape[1])
        spikes = brainstate.HiddenState(jnp.zeros(current.shape[1:]))

        def step(feedforward):
            spikes.value = self.neurons(feedforward + self.recurrent(spikes.value) * RHEOBASE)
            return spikes.value

        with brainstate.environ.context(dt=STEP):
            return brainstate.transform.for_loop(step, current)


class Network(brainstate.nn.Module):
    """Two spiking layers that tell from the voltage of one interspike segment which cell it came from."""

    def __init__(self, arm: type):
        super().__init__()
        self.norm = arm(VOLTAGE)
        num_inputs = VOLTAGE.channels * (1 + len(HALF_ACTIVATION))
        self.layers = [SpikingLayer(num_inputs, arm), SpikingLayer(HIDDEN, arm)]
        self.readout = brainstate.nn.Linear(HIDDEN, 2)

    def update(self, voltage, mask):
        """Return the evidence (batch, 2) for each cell, from voltage and mask of shape (time, batch, channel)."""
        x = jnp.concatenate([jnp.where(mask, self.norm(voltage, mask), 0), activation(voltage, mask)], CHANNEL)
        steps = jnp.any(mask, CHANNEL, keepdims=True)
        for layer in self.layers:
            x = layer(x, steps)
        rate = jnp.sum(x, TIME, where=steps) / jnp.sum(steps, TIME)
        return self.readout(rate)


def activation(voltage, mask):
    """Show the voltage as channels in the membrane see it: open by a Boltzmann curve each, closed in the padding.

    A norm takes the level of the voltage away; these inputs keep it, and are the same for every way to normalize.
    """
    is_open = jax.nn.sigmoid((voltage[..., None] - HALF_ACTIVATION) / SLOPE)
    return jnp.where(mask[..., None], is_open, 0).reshape(*voltage.shape[:-1], -1)
