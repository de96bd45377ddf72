"""Folding: one layer gives what two gave, by a float64 reference in numpy; and what cannot fold says why."""

import brainpy.state
import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.nn import init

from braindnorm import BatchNorm, BatchNorm2d, DivisiveNorm, GroupNorm, LayerNorm, OverTime, RMSNorm
from braindnorm.errors import ConversionError, UnitError
from braindnorm.interop import fold_norm

EPSILON = 1e-5


def drawn(norm: BatchNorm, seed: int = 0, variance: float = 1e-5, **given: np.ndarray) -> BatchNorm:
    """Give a norm random statistics and weights, with variances as small as epsilon, and scales of both signs."""
    rng = np.random.default_rng(seed)
    shape = norm.running_mean.value.shape
    values = {
        "mean": rng.normal(0, 1, shape),
        "var": variance * rng.uniform(0.5, 2, shape),
        "scale": rng.normal(0, 1, shape),
        "bias": rng.normal(0, 1, shape),
    } | given
    norm.running_mean.value = jnp.asarray(values["mean"], jnp.float32)
    norm.running_var.value = jnp.asarray(values["var"], jnp.float32)
    norm.weight.value = {key: jnp.asarray(values[key], jnp.float32) for key in ("scale", "bias")}
    return norm


def normalized(x: np.ndarray, norm: BatchNorm) -> np.ndarray:
    """The equation of the norm in evaluation, in float64."""
    states = (norm.running_mean.value, norm.running_var.value, norm.weight.value["scale"], norm.weight.value["bias"])
    mean, var, scale, bias = (np.asarray(value, np.float64) for value in states)
    return (x - mean) / np.sqrt(var + EPSILON) * scale + bias


def wide(quantity, unit=u.UNITLESS) -> np.ndarray:
    return np.asarray(u.Quantity(quantity).to_decimal(unit), np.float64)


def linear(**units) -> brainstate.nn.Linear:
    with brainstate.random.seed_context(0):
        return brainstate.nn.Linear(5, 4, w_init=init.Normal(1.0, **units), b_init=init.Normal(1.0, **units))


def dot(x: np.ndarray, layer: brainstate.nn.Linear, unit=u.UNITLESS) -> np.ndarray:
    return x @ wide(layer.weight.value["weight"], unit) + wide(layer.weight.value["bias"], unit)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-6 of the largest: what float32 weights hold."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


X = np.random.default_rng(1).normal(0, 1, (7, 5))


def test_after_and_before_a_linear_layer() -> None:
    layer = linear()
    norm, first = drawn(BatchNorm(4)), drawn(BatchNorm(5), 1)
    before = {key: np.array(value) for key, value in layer.weight.value.items()}
    close(dot(X, fold_norm(layer, norm)), normalized(dot(X, layer), norm))
    close(dot(X, fold_norm(first, layer)), dot(normalized(X, first), layer))
    both = fold_norm(fold_norm(first, layer), norm)
    close(dot(X, both), normalized(dot(normalized(X, first), layer), norm))
    assert both.weight.value["weight"].dtype == jnp.float32 and type(both) is brainstate.nn.Linear
    for key, value in layer.weight.value.items():  # the given layer stays as it was
        np.testing.assert_array_equal(value, before[key])


def test_without_a_bias_and_with_a_mask_of_weights() -> None:
    mask = np.random.default_rng(2).integers(0, 2, (5, 4)).astype(np.float32)
    layer = brainstate.nn.Linear(5, 4, b_init=None, w_mask=mask)
    weight = np.asarray(layer.weight.value["weight"], np.float64) * mask
    after, first = drawn(BatchNorm(4)), drawn(BatchNorm(5))
    for folded, expected in (
        (fold_norm(layer, after), normalized(X @ weight, after)),
        (fold_norm(first, layer), normalized(X, first) @ weight),
    ):
        new = folded.weight.value
        close(X @ (np.asarray(new["weight"], np.float64) * mask) + np.asarray(new["bias"], np.float64), expected)


def test_epsilon_is_not_forgotten() -> None:
    """At a variance of epsilon itself, weights without it are off by the square root of 2."""
    norm = drawn(BatchNorm(4, unit=u.mV, epsilon=2.0 * u.mV), var=np.full(4, 4.0), scale=np.ones(4))
    weight = fold_norm(brainstate.nn.Linear(5, 4, w_init=init.Constant(1.0), b_init=None), norm).weight.value["weight"]
    close(np.asarray(weight), np.full((5, 4), 1 / np.sqrt(8)))


def test_units_of_weights_and_norm() -> None:
    """Weights in nA, a norm from pA to mV: the folded weights are in mV, the physical output is the same."""
    layer, norm = linear(unit=u.nA), drawn(BatchNorm(4, unit=u.pA, out_unit=u.mV), variance=1e6)
    folded = fold_norm(layer, norm)
    assert [u.get_unit(value) for value in folded.weight.value.values()] == [u.mV, u.mV]
    close(dot(X, folded, u.mV), normalized(dot(X, layer, u.pA), norm))


def test_a_unit_that_the_model_puts_in_between() -> None:
    layer, norm = linear(), drawn(BatchNorm(4, unit=u.nA, out_unit=u.UNITLESS))
    folded = fold_norm(layer, norm, between=u.nA)
    assert isinstance(folded.weight.value["weight"], jnp.ndarray)
    close(dot(X, folded), normalized(dot(X, layer), norm))
    declared = drawn(BatchNorm(4, unit=u.nA, out_unit=u.mV))
    folded = fold_norm(layer, declared, between=u.pA)
    assert [u.get_unit(value) for value in folded.weight.value.values()] == [u.mV, u.mV]
    close(dot(X, folded, u.mV), normalized(dot(X, layer) / 1000, declared))
    first = drawn(BatchNorm(5, unit=u.mV, out_unit=u.UNITLESS))
    folded = fold_norm(first, linear(unit=u.nA))
    inputs = u.Quantity(folded.weight.value["weight"])
    assert inputs.unit.has_same_dim(u.nA / u.mV)
    close(X @ wide(inputs, u.nA / u.mV) + wide(folded.weight.value["bias"], u.nA), dot(normalized(X, first), layer))
    with pytest.raises(UnitError, match=r"fold_norm: the bias of Linear is in 1, but .*write fold_norm\(\.\.\., betw"):
        fold_norm(layer, norm)
    with pytest.raises(UnitError, match="between must be a brainunit Unit"):
        fold_norm(layer, norm, between="nA")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int) -> None:
    """After a grouped convolution with padding, and before one without; channels last."""
    size = (5, 4, 3)[:dims]
    convolution = getattr(brainstate.nn, f"Conv{dims}d")
    x = np.random.default_rng(3).normal(0, 1, (2, *size, 4)).astype(np.float32)
    conv = convolution((*size, 4), 6, 2, groups=2)
    norm = drawn(BatchNorm((*size, 6)))
    folded = fold_norm(conv, norm)
    close(np.asarray(folded(x)), normalized(np.asarray(conv(x), np.float64), norm))
    bare = convolution((*size, 4), 6, 2, groups=2, padding="VALID", b_init=init.Normal())
    first = drawn(BatchNorm((*size, 4)), variance=1.0)
    expected = np.asarray(bare(normalized(x.astype(np.float64), first).astype(np.float32)))
    np.testing.assert_allclose(fold_norm(first, bare)(x), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with pytest.raises(ConversionError, match=rf"Conv{dims}d adds zeros around .* norm's offset is missing\. Use padd"):
        fold_norm(first, conv)
    centred = drawn(BatchNorm((*size, 4)), mean=np.zeros(4), bias=np.zeros(4))
    assert type(fold_norm(centred, conv)) is convolution  # zeros stay zeros


def test_channels_first() -> None:
    x = np.random.default_rng(3).normal(0, 1, (2, 4, 5, 3)).astype(np.float32)
    conv = brainstate.nn.Conv2d((4, 5, 3), 6, 2, channel_first=True)
    norm = drawn(BatchNorm2d((6, 5, 3), feature_axis=0))
    close(np.asarray(fold_norm(conv, norm)(x)), normalized(np.asarray(conv(x), np.float64), norm))
    with pytest.raises(ConversionError, match="Conv2d has its channels on axis -3, and the norm on axis -1, counted f"):
        fold_norm(conv, BatchNorm((5, 6)))


def test_one_to_one() -> None:
    layer = brainstate.nn.OneToOne((5,))
    weight = np.asarray(layer.weight.value["weight"], np.float64)
    norm = drawn(BatchNorm(5))
    for folded, expected in (
        (fold_norm(layer, norm), normalized(X * weight, norm)),
        (fold_norm(norm, layer), normalized(X, norm) * weight),
    ):
        new = folded.weight.value
        close(X * np.asarray(new["weight"], np.float64) + np.asarray(new["bias"], np.float64), expected)


class Normed(brainpy.state.LIF):
    """A neuron that fires where its normed membrane potential is above the threshold (Guo et al. 2023)."""

    def __init__(self, norm, size, **options) -> None:
        super().__init__(size, **options)
        self.norm = norm

    def get_spike(self, V=None):
        return super().get_spike(self.norm(self.V.value if V is None else V))


REST = -65 * u.mV
CELL = {"R": 100 * u.Mohm, "tau": 10 * u.ms, "V_rest": REST, "V_initializer": init.Constant(REST)}
STEPS, NEURONS = 1000, 16


def spikes_of(neuron, current) -> np.ndarray:
    """Run 1000 steps of a tenth of the membrane's time constant."""
    neuron.init_state()
    with brainstate.environ.context(dt=1.0 * u.ms, fit=False):
        return np.asarray(brainstate.transform.for_loop(neuron, current))


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_threshold_gives_the_same_spikes(reset: str) -> None:
    rng = np.random.default_rng(0)
    current = jnp.asarray(rng.normal(0.15, 0.2, (STEPS, NEURONS)), jnp.float32) * u.nA
    options = CELL | {"V_th": -50 * u.mV, "V_reset": -70 * u.mV, "spk_reset": reset}
    norm = drawn(
        BatchNorm(NEURONS, unit=u.mV),
        mean=rng.normal(-58, 3, NEURONS),
        var=rng.uniform(9, 30, NEURONS),
        scale=rng.uniform(3, 7, NEURONS),
        bias=rng.normal(-56, 2, NEURONS),
    )
    before = spikes_of(Normed(norm, NEURONS, **options), current)
    plain = brainpy.state.LIF(NEURONS, **options)
    folded = fold_norm(norm, plain)
    np.testing.assert_array_equal(spikes_of(folded, current), before)
    assert (before.sum(0) > 10).all() and before.mean() < 0.5
    assert (spikes_of(plain, current) != before).any()
    thresholds = (-50 - np.asarray(norm.weight.value["bias"], float)) / np.asarray(norm.weight.value["scale"], float)
    thresholds = thresholds * np.sqrt(np.asarray(norm.running_var.value, float) + EPSILON) + norm.running_mean.value
    close(wide(folded.V_th, u.mV), thresholds)


def test_an_input_current_gives_the_same_spikes_with_any_scale() -> None:
    rng = np.random.default_rng(0)
    norm = drawn(BatchNorm(NEURONS, unit=u.nA), var=rng.uniform(0.02, 0.08, NEURONS), mean=np.full(NEURONS, 0.1))
    norm.weight.value = {"scale": norm.weight.value["scale"] * 0.3, "bias": jnp.full(NEURONS, 0.14)}
    assert (norm.weight.value["scale"] < 0).any()
    neuron = brainpy.state.LIF(NEURONS, V_th=-50 * u.mV, V_reset=REST, spk_reset="hard", **CELL)
    current = jnp.asarray(rng.normal(0.1, 0.2, (STEPS, NEURONS)), jnp.float32) * u.nA
    before = spikes_of(neuron, normalized(current.mantissa, norm).astype(np.float32) * u.nA)
    np.testing.assert_array_equal(spikes_of(fold_norm(norm, neuron), current), before)
    assert (before.sum(0) > 5).all()
    assert fold_norm(norm, neuron).V is not neuron.V


def refused(message: str, *layers, error: type[Exception] = ConversionError) -> None:
    with pytest.raises(error, match=message):
        fold_norm(*layers)


def test_a_threshold_is_converted_between_prefixes() -> None:
    """V_th = -50 mV of a norm from V to mV, with mean -0.06 V, standard deviation 2 mV, scale 4 mV and bias -58 mV."""
    norm = BatchNorm(1, unit=u.volt, out_unit=u.mV, epsilon=0.0)
    drawn(norm, mean=np.array([-0.06]), var=np.array([4e-6]), scale=np.array([4.0]), bias=np.array([-58.0]))
    folded = fold_norm(norm, brainpy.state.LIF(1, V_th=-50 * u.mV, V_reset=-0.07 * u.volt, **CELL))
    np.testing.assert_allclose(folded.V_th.to_decimal(u.mV), [-56.0], rtol=1e-6)  # -60 + 2 (58 - 50) / 4
    np.testing.assert_allclose(folded.V_reset.to_decimal(u.mV), [-76.0], rtol=1e-6)  # as far from V_th as before


def test_thresholds_that_would_change_the_spikes() -> None:
    neuron = brainpy.state.LIF(4, V_th=-50 * u.mV, V_reset=-65 * u.mV, spk_reset="hard", **CELL)
    scale, mean, var = np.array([1.0, -1.0, 2.0, 0.0]), np.full(4, -60.0), np.ones(4)
    norm = drawn(BatchNorm(4, unit=u.mV), scale=scale, mean=mean, var=var)
    refused(r"turns above into below: channels 1, 3\. Learn a scale", norm, neuron)
    low = drawn(norm, scale=np.ones(4), mean=mean, var=var, bias=np.array([-60.0, -60.0, -40.0, -60.0]))
    refused(r"must exceed, and does not in channel 2\. Use a lower V_reset", low, neuron)


def test_neurons_that_do_not_fit() -> None:
    neuron = brainpy.state.LIF(4, **CELL)
    plain = brainpy.state.LIF(4, R=1.0, tau=10.0, V_th=1.0, V_reset=0.0, V_rest=0.0, V_initializer=init.Constant(0.0))
    refused(r"LIF has no units, so it cannot be told .* Give R and V_th their units", BatchNorm(4), plain)
    refused(r"potentials in mV and currents in .*, and the norm makes s s\.", BatchNorm(4, unit=u.second), neuron)
    refused(r"and the norm makes nA mV\.", BatchNorm(4, unit=u.nA, out_unit=u.mV), neuron)
    refused(r"is of size \(4,\), and the norm's channels are of shape \(3,\)", BatchNorm(3, unit=u.mV), neuron)
    refused(r"fold_norm: LIF gives spikes, which a norm behind it does not fold into", neuron, BatchNorm(4))
    refused(r"IF takes no norm: the layers that do are Linear, .* LIF", BatchNorm(4), brainpy.state.IF(4))
    neuron.add_current_input("noise", 1.0 * u.nA)
    refused(r"has other current inputs besides the norm's \(noise\)", BatchNorm(4, unit=u.nA), neuron)


def test_norms_that_depend_on_the_input() -> None:
    ours = LayerNorm(4), RMSNorm(4), GroupNorm(4, num_groups=2), DivisiveNorm(4), OverTime(LayerNorm(4))
    for norm in (*ours, brainstate.nn.LayerNorm(4)):
        kind = type(norm).__name__
        message = rf"fold_norm: {kind} takes its statistics from each input, in evaluation too.*or train with BatchNorm"
        refused(message, linear(), norm)
        refused(message, norm, linear())


def test_a_norm_of_brainstate_is_converted_first() -> None:
    message = r"fold_norm: BatchNorm0d is a norm of brainstate, .* braindnorm\.interop\.from_brainstate\(norm\); or all"
    refused(message, linear(), brainstate.nn.BatchNorm0d(4))
    refused(message, brainstate.nn.BatchNorm0d(4), linear())


def test_a_batch_norm_with_a_memory_evaluates_without_it() -> None:
    norm, layer = drawn(BatchNorm(4, epsilon=EPSILON)), linear()
    for folded in (fold_norm(layer, OverTime(norm)), fold_norm(layer, norm)):
        close(dot(X, folded), normalized(dot(X, layer), norm))
    over = OverTime(norm)
    over.init_state(len(X))
    with brainstate.environ.context(fit=False):
        close(np.asarray(over(layer(jnp.asarray(X, jnp.float32)))), normalized(dot(X, layer), norm))
    refused("BatchNorm has track_running_stats=False", layer, OverTime(BatchNorm(4, track_running_stats=False)))


def test_a_fold_is_done_on_the_host() -> None:
    def traced(weight):
        return fold_norm(brainstate.nn.Linear(5, 4, w_init=weight), BatchNorm(4)).weight.value["weight"]

    with pytest.raises(ConversionError, match=r"the running mean is traced, .* Fold outside of compiled functions"):
        jax.jit(traced)(jnp.zeros((5, 4)))


def test_norms_that_are_no_fixed_line() -> None:
    class Mine(BatchNorm):
        pass

    class Other(brainstate.ParamState):
        def execute(self, x):
            return x

    refused("track_running_stats=False, so that each call", linear(), BatchNorm(4, track_running_stats=False))
    refused(r"param_steps=3: what it does changes from step to step", linear(), BatchNorm(4, param_steps=3))
    refused("param_type=Other, which may compute something else", linear(), BatchNorm(4, param_type=Other))
    refused("takes BatchNorm, .*; got .*Mine", linear(), Mine(4))
    refused("takes BatchNorm, .*; got .*Linear", linear(), linear())
    refused("has its channels on axis -1, and the norm on axis -2", linear(), BatchNorm((4, 4), feature_axis=0))
    refused(r"Linear has 4 channels there, and the norm 3", linear(), BatchNorm(3))
