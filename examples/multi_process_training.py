"""A small network whose neurons are shared among the devices of a mesh, trained on patch-clamp segments."""

from collections.abc import Iterator
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import patch_clamp_data as data
from brainstate.transform import grad, jit, scan, shard_map
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from braindnorm import BatchNorm, LayerNorm

AXIS = "neurons"
NEURONS, SEGMENTS, LEAK, LEARNING_RATE, SEED = 64, 96, 0.95, 0.3, 0
REST, DRIVE = -55 * u.mV, 10 * u.pA


class Network(brainstate.nn.Module):
    """Currents, normalized over all neurons of all devices, drive leaky neurons; a sum over them tells the cell.

    Written for the neurons that a device holds: nothing but two sums over `AXIS`, that of the norm and that of the
    readout, knows of the others.
    """

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(SEED)
        conductance, drive = rng.normal(size=(4, NEURONS)), rng.normal(size=(1, NEURONS))
        self.current = brainstate.ParamState({"conductance": conductance, "drive": drive})
        self.norm = LayerNorm(NEURONS, unit=u.pA, out_unit=u.UNITLESS, axis_name=AXIS)
        self.readout = brainstate.ParamState(rng.normal(size=NEURONS) / 8)

    def update(self, voltage: Any, mask: Any) -> Any:
        """Return one number a segment, from voltages in mV of shape (steps, segments, samples) and their mask."""
        alive = jnp.all(mask, axis=-1, keepdims=True)
        learned = self.current.value
        current = u.math.matmul(voltage * u.mV - REST, learned["conductance"] * u.nS) + learned["drive"] * DRIVE
        rate = jnp.tanh(self.norm(current, mask=alive))
        leaky, _ = scan(leak, 0 * rate[0], (rate, alive))
        return jax.lax.psum(leaky @ self.readout.value, AXIS)


def leak(trace: Any, now: Any) -> Any:
    """Move a trace towards the rate of this step, as long as the segment lasts."""
    rate, alive = now
    return jnp.where(alive, LEAK * trace + (1 - LEAK) * rate, trace), None


def place(value: Any, mesh: jax.sharding.Mesh, spec: P) -> Any:
    """Make one global array of a value that every process has: each gives its devices the part that is theirs."""
    array = np.asarray(value)
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda index: array[index])


def losses(updates: int) -> Iterator[float]:
    """Train on all devices of all processes, and give the loss before each update."""
    # Auto: brainstate traces once outside the map, where axes of type Explicit would refuse the sharded readout
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
    network = Network()
    specs = {network.current: P(None, AXIS), network.norm.weight: P(AXIS), network.readout: P(AXIS)}
    for state, spec in specs.items():
        state.value = jax.tree.map(lambda leaf, spec=spec: place(leaf, mesh, spec), state.value)

    def loss(voltage: Any, mask: Any, sign: Any) -> Any:
        return jnp.mean(jax.nn.softplus(-sign * network(voltage, mask)))

    sharded = shard_map(loss, mesh, in_specs=P(), out_specs=P(), state_in_specs=specs)

    @jit
    def update(*batch: Any) -> Any:
        gradients, value = grad(sharded, grad_states=list(specs), return_value=True)(*batch)
        for state, gradient in zip(specs, gradients, strict=True):
            state.value = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state.value, gradient)
        return value

    batch = [place(part, mesh, P()) for part in draw()]
    for _ in range(updates):
        yield float(update(*batch))


def kept() -> list[list[float]]:
    """Share the segments among all devices; return the mean and the variance that each device here keeps of them.

    Segments differ in length, so devices differ in how many samples they have.
    """
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
    norm = BatchNorm(1, unit=u.mV, axis_name=AXIS, affine=False, momentum=0.0)
    states = norm.running_mean, norm.running_var
    for state in states:
        state.value = place(state.value, mesh, P())
    voltage, mask, _ = draw()
    segments = P(None, AXIS)
    pool = shard_map(
        lambda voltage, mask: norm(voltage * u.mV, mask=mask).mantissa, mesh, in_specs=segments, out_specs=segments
    )
    with brainstate.environ.context(fit=True):
        jit(pool)(*(place(part[..., None], mesh, segments) for part in (voltage, mask)))
    shards = zip(*(state.value.addressable_shards for state in states), strict=True)
    return [[float(np.asarray(shard.data)[0]) for shard in both] for both in shards]


def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the same segments in every process: voltage in mV, mask, and -1 or 1 for the cell."""
    segments = data.cut(data.load())
    voltage, mask = data.pad(segments, data.LONGEST)
    drawn = np.random.default_rng(SEED).choice(len(segments.cell), SEGMENTS, replace=False)
    millivolts = np.asarray(voltage.to_decimal(u.mV), np.float64)
    return millivolts[:, drawn], mask[:, drawn], 2.0 * segments.cell[drawn] - 1
