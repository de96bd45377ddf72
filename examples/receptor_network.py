"""The spiking network that hears, and the three ways to normalize that the example compares."""

from collections.abc import Callable

import brainpy.state
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
from brainstate.nn.init import Constant, Normal, Orthogonal
from receptor_data import CHANNELS, STEP

from braindnorm import DivisiveNorm, LayerNorm

REST, FIRING = -65 * u.mV, -50 * u.mV
RESISTANCE = 100 * u.Mohm
RHEOBASE = ((FIRING - REST) / RESISTANCE).in_unit(u.nA)  # the weakest current that makes a neuron fire
MEMBRANE, TRACE = 5 * u.ms, 2 * u.ms
LOUDNESS = 0.16 * u.pascal  # the mean amplitude of the recordings
FASTEST = 500 * u.Hz  # of what is predicted at first
FLOOR = 1 * u.Hz


def ours(filters: int, neurons: int) -> tuple[Callable, Callable]:
    """braindnorm: gain control in Pa, and currents normalized in nA."""
    gain = DivisiveNorm(filters, exponent=1.5, sigma=LOUDNESS, gamma=2.0, out_unit=u.UNITLESS)
    return gain, LayerNorm(neurons, unit=u.nA, scale_init=Constant(2 * RHEOBASE), bias_init=Constant(RHEOBASE))


def by_hand(filters: int, neurons: int) -> tuple[Callable, Callable]:
    """brainstate.nn, which takes no units and has no divisive norm: RMSNorm and LayerNorm on numbers without units."""
    gain = brainstate.nn.RMSNorm(filters, epsilon=LOUDNESS.to_decimal(u.pascal) ** 2)
    scale = RHEOBASE.to_decimal(u.nA)
    currents = brainstate.nn.LayerNorm(neurons, scale_init=Constant(2 * scale), bias_init=Constant(scale))
    return Stripped(gain, u.pascal, u.UNITLESS), Stripped(currents, u.nA, u.nA)


def no_norm(filters: int, neurons: int) -> tuple[Callable, Callable]:
    """Fixed numbers bring the values to the same scale."""
    return Fixed(0 * u.pascal, LOUDNESS, 1.0), Fixed(0 * u.nA, 1 * u.nA, 2 * RHEOBASE)


class Stripped(brainstate.nn.Module):
    """A norm of numbers: the unit is taken off before it and put on again behind it."""

    def __init__(self, norm, unit, out_unit):
        super().__init__()
        self.norm, self.unit, self.out_unit = norm, unit, out_unit

    def update(self, x):
        return u.maybe_decimal(self.norm(x.to_decimal(self.unit)) * self.out_unit)


class Fixed(brainstate.nn.Module):
    """No statistics."""

    def __init__(self, centre, spread, scale):
        super().__init__()
        self.centre, self.spread, self.scale = centre, spread, scale

    def update(self, x):
        return (x - self.centre) / self.spread * self.scale


ARMS = {"braindnorm": ours, "no norm": no_norm, "brainstate.nn, no units": by_hand}


class Receptor(brainstate.nn.Module):
    """Filters of the sound (half as many as neurons), gain control, recurrent integrate-and-fire neurons, a rate."""

    def __init__(self, arm: Callable, neurons: int):
        super().__init__()
        filters = neurons // 2
        self.filters = brainstate.nn.Linear(CHANNELS, filters, w_init=Normal(0.5), b_init=None)
        self.gain, self.norm = arm(filters, neurons)
        self.synapses = brainstate.nn.Linear(filters, neurons)
        self.recurrent = brainstate.nn.Linear(neurons, neurons, w_init=Orthogonal(scale=0.5), b_init=None)
        self.neurons = brainpy.state.LIF(
            neurons,
            R=RESISTANCE,
            tau=MEMBRANE,
            V_rest=REST,
            V_reset=REST,
            V_th=FIRING,
            V_initializer=Constant(REST),
        )
        self.readout = brainstate.nn.Linear(neurons, 1)

    def init_state(self, batch_size: int | None = None, **_):
        self.spikes = brainstate.HiddenState(jnp.zeros((batch_size, *self.neurons.in_size)))
        self.trace = brainstate.HiddenState(jnp.zeros((batch_size, *self.neurons.in_size)))

    def reset_state(self, batch_size: int | None = None, **_):
        self.spikes.value = self.trace.value = jnp.zeros((batch_size, *self.neurons.in_size))

    def update(self, sound: u.Quantity) -> u.Quantity:
        """Return the rate (batch,) at this step, from the sound (batch, CHANNELS) up to it."""
        drive = u.math.maximum(self.filters(sound.to_decimal(u.pascal)), 0) * u.pascal
        current = (self.synapses(self.gain(drive)) + self.recurrent(self.trace.value)) * u.nA
        self.spikes.value = self.neurons(self.norm(current))
        decay = jnp.exp(-u.maybe_decimal(STEP / TRACE))
        self.trace.value = decay * self.trace.value + self.spikes.value
        return FASTEST * jax.nn.sigmoid(self.readout(self.trace.value)[..., 0] - 1.5) + FLOOR
