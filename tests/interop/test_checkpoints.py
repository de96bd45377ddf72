"""Checkpoints that users have hold the parameters of layers with units, and give them back bit for bit."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from braintools.file import msgpack_load, msgpack_save

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, RMSNorm
from braindnorm.errors import NormError

X = np.random.default_rng(0).normal(-65, 10, (16, 8)).astype(np.float32) * u.mV


def network(seed):
    """Return layers with units whose parameters are random."""
    rng = np.random.default_rng(seed)

    def random(shape):
        return rng.random(shape).astype(np.float32) + 1

    return brainstate.nn.Sequential(
        LayerNorm(8, unit=u.mV, out_unit=u.pA, scale_init=random, bias_init=random),
        RMSNorm(8, unit=u.nA, scale_init=lambda shape: random(shape) * u.mV),
        GroupNorm(8, num_groups=2, reduction_axes=-1, unit=u.volt, out_unit=u.Hz, scale_init=random),
        DivisiveNorm(8, sigma=lambda shape: random(shape) * u.Hz, gamma=lambda shape: random(shape) * u.mA),
    )


def through_orbax_standard(tree, like, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "orbax", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "orbax", jax.tree.map(ocp.utils.to_shape_dtype_struct, like))


def through_orbax_manager(tree, like, folder):
    with ocp.CheckpointManager(folder / "manager") as manager:
        manager.save(3, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        return manager.restore(3, args=ocp.args.StandardRestore(like))


def through_msgpack(tree, like, folder):
    msgpack_save(folder / "net.msgpack", tree)
    # it gives numpy arrays, whose exp is rounded differently from that of XLA
    return jax.tree.map(jnp.asarray, msgpack_load(folder / "net.msgpack", target=like))


def tree_of(net):
    """Return the parameters as a plain dict of arrays, named by their paths."""
    states = net.states(brainstate.ParamState)
    return {".".join(map(str, path)): state.value for path, state in states.items()}


@pytest.mark.parametrize("through", [through_orbax_standard, through_orbax_manager, through_msgpack])
def test_round_trip(through, tmp_path):
    saved, loaded = network(0), network(1)
    assert not np.allclose(saved(X).mantissa, loaded(X).mantissa)

    restored = through(tree_of(saved), tree_of(loaded), tmp_path)
    for path, state in loaded.states(brainstate.ParamState).items():
        state.value = restored[".".join(map(str, path))]

    for a, b in zip(jax.tree.leaves(tree_of(saved)), jax.tree.leaves(tree_of(loaded)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded(X).unit == saved(X).unit == u.mA
    np.testing.assert_array_equal(loaded(X).mantissa, saved(X).mantissa)


def test_msgpack_takes_the_states_themselves(tmp_path):
    """The tree that brainstate gives is saved as it is, and loaded into the layers in one call."""
    saved, loaded = network(0), network(1)
    msgpack_save(tmp_path / "net.msgpack", saved.states(brainstate.ParamState).to_dict_values())
    states = loaded.states(brainstate.ParamState)
    states.assign_dict_values(msgpack_load(tmp_path / "net.msgpack", target=states.to_dict_values()))
    for a, b in zip(jax.tree.leaves(tree_of(saved)), jax.tree.leaves(tree_of(loaded)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    """The layer itself says so, since not every format compares the sizes."""
    msgpack_save(tmp_path / "net.msgpack", LayerNorm(4, unit=u.mV).weight.value)
    layer = LayerNorm(8, unit=u.mV)
    layer.weight.value = msgpack_load(tmp_path / "net.msgpack")
    with pytest.raises(NormError, match="axis -1 of the input must be 4 long, as scale and bias are"):
        layer(X)
