"""The step mask: what it covers, and that nothing compiled ever keeps an old one."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import cond, for_loop, grad, jit, remat, vmap, vmap2

from braindnorm import DivisiveNorm, GroupNorm, LayerNorm, RMSNorm, functional, masks, step_mask
from braindnorm.errors import MaskError

A = np.array([True, True, False])
B = np.array([True, False, True])
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
XS = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(np.float32)
LAYERS = [LayerNorm(4), RMSNorm(4), GroupNorm(4, num_groups=2), DivisiveNorm(4)]


def masked(norm: Any, x: Any, mask: np.ndarray) -> Any:
    """Return what the explicit mask gives."""
    return norm(x, mask=mask.reshape(*mask.shape, *[1] * (np.ndim(x) - mask.ndim)))


def inside(f: Any, mask: Any, *args: Any) -> Any:
    with step_mask(mask):
        return f(*args)


@pytest.mark.parametrize("norm", LAYERS, ids=lambda norm: type(norm).__name__)
def test_is_the_explicit_mask_of_the_leading_axes(norm: Any) -> None:
    assert np.array_equal(inside(norm, A, X), masked(norm, X, A))
    assert np.allclose(norm(X), norm(X, mask=True), rtol=1e-6, atol=1e-6)


def test_reaches_the_layers_of_a_sequential() -> None:
    net = brainstate.nn.Sequential(LayerNorm(4), lambda x: x + 1, RMSNorm(4))
    expected = masked(net[2], masked(net[0], X, B) + 1, B)
    assert np.array_equal(inside(net, B, X), expected)


def test_is_combined_with_an_explicit_mask() -> None:
    explicit = X > -0.5
    got = inside(lambda: LAYERS[0](X, mask=explicit), A)
    assert np.array_equal(got, LAYERS[0](X, mask=explicit & A[:, None]))


def test_nested_masks_are_combined_from_the_left() -> None:
    with step_mask(A):
        assert np.array_equal(inside(LAYERS[0], B, X), masked(LAYERS[0], X, A & B))
        assert np.array_equal(LAYERS[0](X), masked(LAYERS[0], X, A))
    both = np.zeros((3, 5), bool)
    both[0, ::2] = True
    x = np.swapaxes(XS, 0, 1)
    with step_mask(B):
        assert np.array_equal(inside(LAYERS[0], both, x), masked(LAYERS[0], x, both & B[:, None]))


def test_masked_trials_leave_statistics_over_the_batch() -> None:
    norm = LayerNorm(4, reduction_axes=0)
    assert np.allclose(inside(norm, A, X)[:2], norm(X[:2]), atol=1e-6)


def test_masks_of_whole_sequences_integers_lists_and_none() -> None:
    alive = masks.from_lengths([5, 2, 0], 5)
    assert np.array_equal(inside(LAYERS[0], alive, XS), masked(LAYERS[0], XS, np.asarray(alive)))
    assert np.array_equal(inside(LAYERS[0], [1, 1, 0], X), masked(LAYERS[0], X, A))
    assert np.array_equal(inside(LAYERS[0], None, X), LAYERS[0](X))


def test_units_and_masked_output() -> None:
    norm = LayerNorm(4, unit=u.mV, masked_output="input")
    got = inside(norm, A, X * u.volt)
    assert np.allclose(got[2].to_decimal(u.volt), X[2])


def test_the_functions_are_pure() -> None:
    with step_mask(A):
        LAYERS[0](X)
        assert np.array_equal(functional.layer_norm(X), functional.layer_norm(X, mask=None))


@pytest.mark.parametrize("alive", [masks.from_lengths([5, 2, 0], 5), np.ones((5, 3), bool)])
@pytest.mark.parametrize("transform", [lambda f: f, jit, jax.jit])
def test_opened_in_the_body_of_a_loop(alive: Any, transform: Any) -> None:
    norm = LAYERS[0]

    def run(xs: Any, alive: Any) -> Any:
        return for_loop(lambda x, m: inside(norm, m, x), xs, alive)

    assert np.allclose(transform(run)(XS, alive), masked(norm, XS, np.asarray(alive)), atol=1e-6)


@pytest.mark.parametrize("compile_", [jit, jax.jit])
def test_a_constant_mask_opened_inside_a_compiled_function(compile_: Any) -> None:
    got = compile_(lambda x: (inside(LAYERS[0], A, x), inside(LAYERS[0], B, x)))(X)
    assert np.allclose(got, [masked(LAYERS[0], X, A), masked(LAYERS[0], X, B)], atol=1e-6)


def test_a_loop_inside_the_context() -> None:
    for mask in (A, B):
        got = inside(lambda: for_loop(LAYERS[0], XS), mask)
        assert np.allclose(got, masked(LAYERS[0], XS, np.broadcast_to(mask, (5, 3))), atol=1e-6)


@pytest.mark.parametrize("transform", [jit, lambda f: jit(remat(f)), lambda f: jit(lambda x: cond(True, f, f, x))])
def test_a_compiled_function_follows_the_mask(transform: Any) -> None:
    norm = LAYERS[0]
    f = transform(norm)
    for mask in (A, B, np.ones(3, bool), A):
        assert np.allclose(inside(f, mask, X), masked(norm, X, mask), atol=1e-6)
    assert np.allclose(f(X), norm(X), atol=1e-6)
    assert np.allclose(inside(f, B, X), masked(norm, X, B), atol=1e-6)
    assert np.allclose(inside(f, B[:, None][:, 0], X), masked(norm, X, B), atol=1e-6)
    assert np.allclose(inside(f, np.array(False), X), 0)


def test_nested_masks_around_a_compiled_function() -> None:
    f = jit(LAYERS[0])
    with step_mask(A):
        f(X)
        assert np.allclose(inside(f, B, X), masked(LAYERS[0], X, A & B), atol=1e-6)
        assert np.allclose(f(X), masked(LAYERS[0], X, A), atol=1e-6)


def test_a_gradient_follows_the_mask() -> None:
    weights = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    g = grad(lambda x: jnp.sum(weights * LAYERS[0](x)))
    for mask in (A, B):
        expected = jax.grad(lambda x, m=mask: jnp.sum(weights * masked(LAYERS[0], x, m)))(jnp.asarray(X))
        assert np.allclose(inside(g, mask, jnp.asarray(X)), expected, atol=1e-6)


@pytest.mark.parametrize("transform", [vmap, vmap2, jax.vmap])
def test_under_vmap_each_lane_has_its_own_mask(transform: Any) -> None:
    got = transform(lambda x, m: inside(LAYERS[0], m, x))(jnp.asarray(X), jnp.asarray(A))
    assert np.allclose(got, masked(LAYERS[0], X, A), atol=1e-6)
    outside = inside(transform(LAYERS[0]), A, jnp.asarray(XS))
    assert np.allclose(outside, masked(LAYERS[0], XS, np.broadcast_to(A, (5, 3))), atol=1e-6)


def test_jax_jit_would_keep_the_mask_and_is_refused() -> None:
    f = jax.jit(LAYERS[0])
    with pytest.raises(MaskError, match=r"LayerNorm.*jax\.jit.*keep this mask.*[Oo]pen the block inside"):
        inside(f, A, X)


def test_a_program_compiled_ahead_of_time_is_refused() -> None:
    f = jax.jit(LAYERS[0]).lower(X).compile()
    with pytest.raises(MaskError, match=r"no norm layer has read this mask.*compiled ahead of time"):
        inside(f, A, X)


def test_a_block_without_norms_is_refused() -> None:
    with pytest.raises(MaskError, match=r"write step_mask\(None\)"), step_mask(A):
        pass
    with pytest.raises(ZeroDivisionError), step_mask(A):
        _ = 1 / 0


@pytest.mark.parametrize(
    ("mask", "x", "shown"),
    [
        (np.ones(4, bool), X, r"\(4,\).*\(3, 4\).*\(3,\) are batch axes"),
        (np.ones(4, bool), X[0], r"\(4,\).*\(4,\).*\(\) are batch axes"),
        (np.ones((3, 4), bool), X, r"\(3, 4\) does not fit"),
    ],
)
def test_what_does_not_fit_names_the_layer(mask: Any, x: Any, shown: str) -> None:
    norm = LayerNorm(4, name="input")
    with pytest.raises(MaskError, match=rf"LayerNorm 'input': the step mask of shape {shown}"):
        inside(norm, mask, x)


def test_what_is_no_mask() -> None:
    with pytest.raises(MaskError, match="step_mask: the mask is of dtype float32"):
        inside(LAYERS[0], X[:, 0], X)
    with pytest.raises(MaskError, match="inside one of shape"), step_mask(A):
        inside(LAYERS[0], np.ones(2, bool), X)
