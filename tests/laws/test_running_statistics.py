"""Laws L2, L3, L5 and L7 for a norm that keeps running statistics, in both phases: of the output and of what is kept.

L1 and L6 are in tests/layers, L4 in test_device_running, L8 in test_running_derivative, L9 and L10 in test_phases.
"""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braindnorm
from braindnorm import BatchNorm, errors
from tests.support import reference
from tests.support.norms import draw, float64, randomize

transform = brainstate.transform
PHASES = [True, False]
every_phase = pytest.mark.parametrize("fit", PHASES, ids=["training", "evaluation"])
X = draw(5, 4, 3, loc=-65, scale=3)  # (time, batch, channels)


def with_statistics(layer: BatchNorm) -> BatchNorm:
    layer.running_mean.value, layer.running_var.value = jnp.array([-60.0, -65.0, -70.0]), jnp.array([4.0, 9.0, 16.0])
    return layer


def expected(x: Any, fit: bool, mask: Any = True, scale: Any = 1.0, bias: Any = 0.0) -> Any:
    """Return the output in float64; analytic in `x`, `scale` and `bias`."""
    if fit:
        return reference.layer_norm(x, (0, 1), epsilon=1e-5, mask=mask, scale=scale, bias=bias)
    z = (x - np.array([-60.0, -65.0, -70.0])) / np.sqrt(np.array([4.0, 9.0, 16.0]) + 1e-5)
    return np.where(mask, z * scale + bias, 0)


@every_phase
def test_a_prefix_changes_neither_the_output_nor_what_is_kept(fit: bool) -> None:
    for unit, factor in ((u.mV, 1.0), (u.volt, 1e-3), (u.uvolt, 1e3)):
        layer = with_statistics(BatchNorm(3, unit=u.mV, out_unit=u.UNITLESS, momentum=0.0))
        with brainstate.environ.context(fit=fit):
            y = layer(X * factor * unit)
        np.testing.assert_allclose(y, expected(X.astype(float), fit), rtol=1e-4, atol=1e-4)
        want = X.mean((0, 1), float) if fit else np.array([-60.0, -65.0, -70.0])
        np.testing.assert_allclose(layer.running_mean_quantity.to_decimal(u.mV), want, rtol=1e-6)
    with brainstate.environ.context(fit=fit):
        for wrong in (X, X * u.mA):
            with pytest.raises(errors.UnitError, match="BatchNorm"):
                layer(wrong)


@every_phase
def test_padding_changes_nothing_whatever_it_holds(fit: bool) -> None:
    """Values, gradients and what is kept, in float64; gradients at masked positions are exactly 0."""
    mask = np.random.default_rng(1).random(X.shape) < 0.6
    mask[1, 2], mask[3] = False, False
    seen, weights = np.where(mask, X, 0).astype(float), draw(*X.shape, seed=2)
    with float64():
        layer = with_statistics(randomize(BatchNorm(3, momentum=0.0)))
        learned = {key: np.asarray(v) for key, v in layer.weight.value.items()}

        def loss(x: Any) -> Any:
            y = layer(x, mask=mask)
            return jnp.sum(y * weights), y

        call = transform.jit(transform.grad(loss, layer.weight, argnums=0, has_aux=True))
        want = expected(seen, fit, mask, **learned)
        truth = {
            key: reference.jacobian(
                lambda v, key=key: np.sum(expected(seen, fit, mask, **{**learned, key: v}) * weights), learned[key]
            )
            for key in learned
        }
        of_x = reference.jacobian(lambda x: np.sum(expected(x, fit, mask, **learned) * weights), seen)
        for fill in (np.nan, -np.inf, 1e30):
            with brainstate.environ.context(fit=fit):
                (of_learned, gx), y = call(np.where(mask, X.astype(float), fill))
            np.testing.assert_allclose(y, want, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(gx, of_x, rtol=1e-7, atol=1e-10)
            assert (np.asarray(gx)[~mask] == 0).all() and (np.asarray(y)[~mask] == 0).all()
            for key, gradient in of_learned.items():
                np.testing.assert_allclose(gradient, truth[key], rtol=1e-7, atol=1e-10)
        if fit:
            var = np.nanvar(np.where(mask, X.astype(float), np.nan), (0, 1))
            np.testing.assert_allclose(layer.running_var.value, var, rtol=1e-6)


def test_vmap_equals_the_batch() -> None:
    batch = jnp.asarray(np.moveaxis(X, 1, 0))
    for fit, options in ((False, {}), (True, {"axis_name": "batch"})):
        layer, whole = (with_statistics(BatchNorm(3, momentum=0.5, **given)) for given in (options, {}))
        with brainstate.environ.context(fit=fit):
            y = transform.vmap(layer, **options)(batch)
            np.testing.assert_allclose(y, whole(batch), rtol=1e-5, atol=1e-5)
        for mine, other in ((layer.running_mean, whole.running_mean), (layer.running_var, whole.running_var)):
            np.testing.assert_allclose(mine.value, other.value, rtol=1e-6)


@every_phase
def test_dtypes(fit: bool) -> None:
    """The result is the promotion of input and parameters, or what was asked for; what is kept stays float32."""
    for given in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.int32, bool):
        for asked in (None, jnp.float16):
            for affine in (True, False):
                layer = BatchNorm(3, dtype=asked, affine=affine)
                with braindnorm.phase(fit):
                    x = jax.ShapeDtypeStruct((4, 3), given)
                    y, kept = jax.eval_shape(lambda x, layer=layer: called(layer, x), x)
                floating = given if jnp.issubdtype(given, jnp.floating) else jnp.float32
                assert y.dtype == (asked or (jnp.promote_types(floating, jnp.float32) if affine else floating))
                assert all(v.dtype == jnp.float32 for v in kept)


def called(layer: BatchNorm, x: Any) -> Any:
    """Call a copy of a layer, which writes its own states, and return these too."""
    copy = brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(layer))
    return copy(x), (copy.running_mean.value, copy.running_var.value)
