"""Online learning: what theory says is exact is exact, and the table of the guide is what is measured."""

import subprocess
import sys
from pathlib import Path

import brainstate
import braintrace
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braindnorm
from braindnorm import LayerNorm, NormParam, RMSNorm
from braindnorm.interop.braintrace import ETraceExpT, ETraceNormParam
from examples import online_gradients as example

GUIDE = Path(__file__).parent.parent.parent / "docs" / "online_learning.md"
NORMS = ["RMSNorm", "DivisiveNorm", "GroupNorm", "LayerNorm", "LayerNorm, stopped", "BatchNorm, stopped"]


@pytest.fixture(scope="module")
def leaky():
    """The cosines and ratios behind every norm, of D-RTRL on leaky units."""
    return {norm: example.compare(norm, recurrent=False, rule="D-RTRL") for norm in NORMS}


@pytest.mark.parametrize("norm", NORMS)
def test_elementwise_parameters_are_exact(leaky, norm):
    """Leaky units pass nothing sideways, so D-RTRL is exact for what acts on one unit alone."""
    for name in leaky[norm].keys() - {"matrix"}:
        np.testing.assert_allclose(leaky[norm][name], (1, 1), rtol=1e-10)


def test_centring_loses_what_is_upstream(leaky):
    assert leaky["LayerNorm"]["matrix"][1] < 1e-9
    assert leaky["GroupNorm"]["matrix"][1] < 1e-9
    assert leaky["RMSNorm"]["matrix"][0] > 0.8
    assert leaky["DivisiveNorm"]["matrix"][0] > 0.9


@pytest.mark.parametrize("norm", NORMS)
def test_the_table_of_the_guide(leaky, norm):
    section = GUIDE.read_text("utf-8").partition("## Which norm")[2].partition("\n## ")[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if f"| {norm} |" in line]
    assert {row[1] for row in rows} == ({"matrix"} if "stopped" in norm else leaky[norm].keys())
    for row in rows:
        cosine, ratio = row[2].strip(")").split(" (")
        np.testing.assert_allclose((float(cosine), float(ratio)), leaky[norm][row[1]], atol=0.011)


def test_constant_statistics_keep_what_is_upstream(leaky):
    """Of the true gradient, that of the norm without the option."""
    assert leaky["LayerNorm, stopped"]["matrix"][0] > 0.8
    assert leaky["BatchNorm, stopped"]["matrix"][0] > 0.6  # of a batch of 4


@pytest.mark.parametrize("norm", ["LayerNorm, stopped", "BatchNorm, stopped"])
def test_with_constant_statistics_a_norm_is_elementwise(norm):
    """So D-RTRL on leaky units computes the gradient through time of the very same network, the matrix's too."""
    with brainstate.environ.context(precision=64), braindnorm.phase(fit=True):
        network = example.Network(example.NORMS[norm](), recurrent=False)
        exact = example.named(example.through_time(network)(*example.data(0)))
        found = example.named(example.online(network, algorithm="d_rtrl")(*example.data(0)))
    for name, gradient in exact.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", ["RMSNorm", "LayerNorm"])
def test_multi_step_is_backpropagation_through_time(norm):
    with brainstate.environ.context(precision=64):
        network = example.Network(example.NORMS[norm](), recurrent=True)
        xs, ys = example.data(0)
        exact = example.named(example.through_time(network)(xs, ys))
        learner = example.compiled(network, "d_rtrl", vjp_method="multi-step")

        def losses(x, y):
            return jnp.mean((learner(braintrace.MultiStepData(x)) - y) ** 2, axis=(-2, -1))

        found = example.named(learner.etrace_grad(xs, ys, step_fn=losses, chunk_size=len(xs)))
    for name, gradient in exact.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-10, atol=1e-14)


def test_a_layer_with_units_learns_the_same():
    """Voltages in, currents out: the online gradients are those of the plain layer."""

    class InUnits(brainstate.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def update(self, x):
            return self.norm(x * u.mV) / u.nA

    plain = example.Network(RMSNorm(example.UNITS, param_type=ETraceNormParam), recurrent=True)
    norm = RMSNorm(example.UNITS, unit=u.volt, epsilon=1e-12, out_unit=u.nA, param_type=ETraceNormParam)
    units = example.Network(InUnits(norm), recurrent=True)
    a, b = (
        learner.etrace_grad(*example.data(0), step_fn=lambda x, y, f=learner: jnp.mean((f(x) - y) ** 2))
        for learner in (example.compiled(net, "d_rtrl") for net in (plain, units))
    )
    for x, y in zip(jax.tree.leaves(dict(a)), jax.tree.leaves(dict(b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"use_scale": False}, {"use_bias": False}], ids=str)
def test_elsewhere_it_is_a_norm_param(options):
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    layers = [LayerNorm(8, param_type=kind, bias_init=0.5, **options) for kind in (NormParam, ETraceNormParam)]
    np.testing.assert_allclose(layers[0](x), layers[1](x), rtol=1e-6, atol=1e-6)
    found = [
        brainstate.transform.grad(lambda f=layer: (f(x) ** 3).sum(), layer.states(brainstate.ParamState))()
        for layer in layers
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_transform_there_and_back():
    transform = ETraceExpT()
    np.testing.assert_allclose(transform.forward(transform.inverse(jnp.array([0.1, 20.0]))), [0.1, 20.0], rtol=1e-6)


def test_nothing_is_imported_until_asked():
    code = "import sys, braindnorm, braindnorm.interop; sys.exit('braintrace' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
