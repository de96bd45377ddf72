"""Every norm of brainstate.nn in a model becomes ours, wherever it stands, with its weights."""

import warnings
from typing import Any, NamedTuple

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import nn

from braindnorm import BatchNorm0d, GroupNorm, LayerNorm, RMSNorm, replace_norms
from braindnorm.errors import OptionError, UnitError


class Pair(NamedTuple):
    first: Any
    second: Any


class Net(nn.Module):
    """A norm in each kind of place; one stands in two, and two share a state."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.LayerNorm(6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.RMSNorm(6), nn.GroupNorm(6, num_groups=2))
        self.places = {"list": [nn.LayerNorm(6), self.tied], "tuple": (nn.Linear(6, 6), nn.LayerNorm(6))}
        self.pair = Pair(nn.LayerNorm(6, use_scale=False, use_bias=False), [self])
        self.places["list"][0].weight = self.places["tuple"][1].weight

    def update(self, x: Any) -> Any:
        x = self.body(self.tied(x)) + self.pair.first(x)
        for norm in (*self.places["list"], *self.places["tuple"]):
            x = norm(x)
        return x


def randomized() -> Net:
    net = Net()
    for number, state in enumerate(net.states(brainstate.ParamState).values()):
        key = jax.random.key(number)
        state.value = jax.tree.map(lambda a, key=key: jax.random.normal(key, a.shape), state.value)
    return net


def test_the_model_keeps_its_values_weights_and_paths() -> None:
    net, x = randomized(), jax.random.normal(jax.random.key(9), (5, 6))
    expected, before = net(x), net.states(brainstate.ParamState)
    values = {path: state.value for path, state in before.items()}
    report = replace_norms(net)
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-5)
    after = net.states(brainstate.ParamState)
    assert after.keys() == before.keys()
    jax.tree.map(np.testing.assert_array_equal, {path: state.value for path, state in after.items()}, values)
    assert {path: (type(old), type(new)) for path, old, new in report} == {
        ("tied",): (nn.LayerNorm, LayerNorm),
        ("body", "layers", 1): (nn.RMSNorm, RMSNorm),
        ("body", "layers", 2): (nn.GroupNorm, GroupNorm),
        ("places", "list", 0): (nn.LayerNorm, LayerNorm),
        ("places", "list", 1): (nn.LayerNorm, LayerNorm),
        ("places", "tuple", 1): (nn.LayerNorm, LayerNorm),
        ("pair", 0): (nn.LayerNorm, LayerNorm),
    }
    assert replace_norms(net) == []


def test_what_was_shared_is_shared() -> None:
    net = randomized()
    replace_norms(net)
    assert net.places["list"][1] is net.tied
    assert net.places["list"][0] is not net.places["tuple"][1]
    assert net.places["list"][0].weight is net.places["tuple"][1].weight
    assert isinstance(net.pair, Pair)


def test_options_go_to_every_layer() -> None:
    net = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4))
    replace_norms(net, unit=u.mV, masked_output="input")
    assert all(norm.unit == u.mV and norm.masked_output == "input" for norm in net.layers)
    assert net(jnp.ones((2, 4)) * u.mV).unit == u.mV


def test_a_wrong_option_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4))
    with pytest.raises(UnitError, match="unit must be a brainunit Unit"):
        replace_norms(net, unit="mV")
    assert [type(norm) for norm in net.layers] == [nn.LayerNorm, nn.RMSNorm]


def test_what_is_left_alone_is_listed_with_its_reason() -> None:
    class Own(nn.LayerNorm):
        pass

    class RowNorm(nn.Module):
        pass

    net = nn.Sequential(Own(4), RowNorm(), nn.RMSNorm(4), LayerNorm(4), nn.Linear(4, 4))
    report = replace_norms(net)
    assert [(path, type(new)) for path, _, new in report] == [(("layers", 2), RMSNorm)]
    assert [(path, module) for path, module, _ in report.left] == [
        (("layers", 0), net.layers[0]),
        (("layers", 1), net.layers[1]),
    ]
    assert str(report) == (
        "replaced layers.2: RMSNorm\n"
        "left layers.0: Own, a subclass of brainstate.nn.LayerNorm, which may compute something else: convert its parts"
        "\nleft layers.1: RowNorm, which has no counterpart in braindnorm"
    )


def test_a_model_in_which_nothing_was_replaced_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"no LayerNorm.* in this Sequential: there is none inside") as caught:
        assert replace_norms(nn.Sequential(nn.Linear(4, 4))) == []
    assert caught[0].filename == __file__

    class RowNorm(nn.Module):
        pass

    with pytest.warns(UserWarning, match=r"it left alone\nleft layers\.0: RowNorm, which has no counterpart"):
        replace_norms(nn.Sequential(RowNorm()))
    with pytest.warns(UserWarning, match="left the model itself: RowNorm"):
        replace_norms(RowNorm())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace_norms(nn.Sequential(LayerNorm(4))).left == []


MASK = np.arange(6) < np.array([6, 4, 1, 3, 2])[:, None]


def test_masked_positions_keep_their_values() -> None:
    net, x = nn.Sequential(nn.LayerNorm(6), nn.RMSNorm(6)), np.random.default_rng(0).normal(2, 3, (5, 6))
    replace_norms(net)
    for norm, centred in zip(net.layers, (True, False), strict=True):
        valid = np.where(MASK, x, np.nan)
        mean = np.nanmean(valid, axis=1, keepdims=True) if centred else 0
        expected = (x - mean) / np.sqrt(np.nanmean((valid - mean) ** 2, axis=1, keepdims=True) + norm.epsilon)
        found = norm(jnp.asarray(x, jnp.float32), mask=MASK)
        # the one of row 2 that is valid is its own mean: epsilon alone divides there
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_masked_output_that_is_asked_for_wins() -> None:
    net, x = nn.Sequential(nn.LayerNorm(6)), jnp.ones((5, 6))
    replace_norms(net, masked_output="zero")
    np.testing.assert_array_equal(net.layers[0](x, mask=MASK)[~MASK], 0)


def test_a_norm_has_no_place_to_be_replaced_in() -> None:
    with pytest.raises(OptionError, match=r"is itself a brainstate\.nn\.RMSNorm.*from_brainstate\(model\)"):
        replace_norms(nn.RMSNorm(4))


def test_batch_norms_are_replaced_with_what_they_kept() -> None:
    """Two that share their statistics go on sharing them; a training step and an evaluation are as before."""
    nets = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm0d(6, momentum=0.5), nn.BatchNorm0d(6)) for _ in range(2)]
    for net in nets:
        net.layers[0].weight.value = nets[0].layers[0].weight.value
        net.layers[2].running_var = net.layers[1].running_var
    paths = nets[0].states().keys()
    report = replace_norms(nets[0])
    assert [(path, type(new)) for path, _, new in report] == [(("layers", n), BatchNorm0d) for n in (1, 2)]
    assert nets[0].states().keys() == paths and report.left == []
    assert nets[0].layers[1].running_var is nets[0].layers[2].running_var
    x = jax.random.normal(jax.random.key(0), (5, 6))
    for fit in (True, False):
        with brainstate.environ.context(fit=fit):
            np.testing.assert_allclose(nets[0](x), nets[1](x), rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6),
        *({path: state.value for path, state in net.states().items()} for net in nets),
    )
