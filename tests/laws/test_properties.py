"""The laws for random shapes, axes, dtypes, masks, units, groups and options, against the float64 reference."""

from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from braindnorm import functional
from braindnorm._numerics.moments import Moments, merge
from tests.support import reference
from tests.support.calls import Call, perform
from tests.support.expected import compare, expected
from tests.support.norms import CENTRED, NORMS, randomize
from tests.support.strategies import Masked, calls, kinds, masked_inputs, negative_axes, seeds

few = settings(max_examples=6)
options = st.fixed_dictionaries({"use_fast_variance": st.booleans(), "epsilon": st.sampled_from([1e-6, 0.1])})


@settings(max_examples=30)
@given(calls())
def test_every_call_is_right(call: Call) -> None:
    """Drop-in use, precision, dtypes and the units of what goes in and comes out, in any combination."""
    assert compare(perform(call), expected(call)) is None


@few
@given(kinds, masked_inputs(), negative_axes(), options, st.sampled_from([u.volt, u.uvolt]))
def test_a_prefix_changes_nothing(kind: str, drawn: Masked, axes: Any, given: Any, prefix: Any) -> None:
    axes = {} if kind == "GroupNorm" else {"reduction_axes": axes}
    layer = NORMS[kind].layer(6, unit=u.mV, **axes, **given)
    x = jnp.asarray(drawn.x) * u.mV
    y = layer(x, mask=drawn.mask).to_decimal(u.mV)
    other = layer(x.in_unit(prefix), mask=drawn.mask).to_decimal(u.mV)
    spread = max(float(np.ptp(drawn.x)), 1e-3)
    np.testing.assert_allclose(other, y, rtol=1e-4, atol=4e-6 * np.abs(drawn.x).max() / spread + 1e-5)


@few
@given(kinds, masked_inputs(), negative_axes(), options)
def test_padding_changes_nothing(kind: str, drawn: Masked, axes: Any, given: Any) -> None:
    """Neither values nor gradients, to the last bit: what is masked is never looked at."""
    axes = {} if kind == "GroupNorm" else {"reduction_axes": axes}
    layer = randomize(NORMS[kind].layer(6, **axes, **given))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=drawn.x.shape), jnp.float32)

    def loss(x: Any) -> Any:
        y = layer(x, mask=drawn.mask)
        return jnp.sum(y * weights), y

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, y), gradient = run(drawn.x)
    (_, y_other), gradient_other = run(drawn.other)
    np.testing.assert_array_equal(y_other, y)
    np.testing.assert_array_equal(gradient_other, gradient)
    assert not np.any(np.asarray(gradient)[~drawn.mask])
    assert np.isfinite(gradient).all()


@few
@given(kinds, masked_inputs(), negative_axes(), options)
def test_vmap_is_the_batch(kind: str, drawn: Masked, axes: Any, given: Any) -> None:
    axes = {} if kind == "GroupNorm" else {"reduction_axes": axes}
    layer = randomize(NORMS[kind].layer(6, **axes, **given))
    mapped = jax.jit(jax.vmap(lambda x, mask: layer(x, mask=mask)))(drawn.other, drawn.mask)
    whole = layer(drawn.other, mask=drawn.mask)
    np.testing.assert_allclose(mapped, whole, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(np.asarray(whole)).max()))


@few
@given(kinds, masked_inputs(), options, st.sampled_from([None, [[0, 1, 2]], [[0, 2], [1]], [[2], [1], [0]]]))
def test_devices_are_an_axis(kind: str, drawn: Masked, given: Any, groups: Any) -> None:
    """What is summed over a mapped axis, or over groups of its indices, equals the sum over an axis of the whole."""
    norm = NORMS[kind]

    def share(x: Any, mask: Any) -> Any:
        return norm.function(x, mask=mask, axis_name="devices", axis_index_groups=groups, **given)

    y = jax.jit(jax.vmap(share, axis_name="devices"))(drawn.other, drawn.mask)
    along = {"reduction_axes": 0} if kind == "GroupNorm" else {"reduction_axes": (0, -1)}
    for rows in groups or [[0, 1, 2]]:
        x, mask = drawn.x[rows], drawn.mask[rows]
        want = norm.reference(x, mask=mask, epsilon=given["epsilon"], **along)
        r = np.abs(drawn.x).max() / np.sqrt(drawn.x.std() ** 2 * 0.01 + given["epsilon"])
        np.testing.assert_allclose(np.asarray(y)[rows], want, rtol=1e-4, atol=1e-5 + 1e-6 * r)


@few
@given(kinds, masked_inputs((2, 6)), options, seeds)
def test_derivatives_are_those_of_the_equation(kind: str, drawn: Masked, given: Any, seed: int) -> None:
    """Forward mode against a complex step through the reference, and reverse mode as its transpose."""
    norm, rng = NORMS[kind], np.random.default_rng(seed)
    epsilon = max(given["epsilon"], 0.1)
    x = drawn.x / max(np.abs(drawn.x).max(), 1)  # so that the derivative is of order one
    tangent, cotangent = rng.normal(size=(2, *x.shape)).astype(np.float32)
    f = lambda x: norm.function(x, mask=drawn.mask, **{**given, "epsilon": epsilon})  # noqa: E731
    _, dy = jax.jit(lambda x: jax.jvp(f, (x,), (tangent,)))(x)
    want = reference.directional(lambda x: norm.reference(x, mask=drawn.mask, epsilon=epsilon), x, tangent)
    np.testing.assert_allclose(dy, want, rtol=2e-4, atol=5e-5)
    (dx,) = jax.jit(lambda x: jax.vjp(f, x)[1](cotangent))(x)
    np.testing.assert_allclose(np.vdot(dx, tangent), np.vdot(cotangent, dy), rtol=1e-3, atol=2e-4)


@few
@given(st.sampled_from(CENTRED), masked_inputs(), st.integers(-1000, 1000))
def test_a_constant_shift_has_no_tangent(kind: str, drawn: Masked, shift: int) -> None:
    """None at all, for a shift whose multiples are floats: a sum of others is rounded before it is divided again."""
    layer = NORMS[kind].layer(6, use_fast_variance=False)
    run = jax.jit(lambda x, dx: jax.jvp(lambda x: layer(x, mask=drawn.mask), (x,), (dx,))[1])
    assert not np.any(run(drawn.x, jnp.full(drawn.x.shape, float(shift))))


@few
@given(kinds, masked_inputs(), options)
def test_step_by_step_is_the_sequence(kind: str, drawn: Masked, given: Any) -> None:
    layer = randomize(NORMS[kind].layer(6, **given))
    steps = brainstate.transform.for_loop(lambda x, mask: layer(x, mask=mask), drawn.other, drawn.mask)
    whole = layer(drawn.other, mask=drawn.mask)
    np.testing.assert_allclose(steps, whole, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(np.asarray(whole)).max()))


@few
@given(masked_inputs(), negative_axes(3), st.booleans())
def test_moments(drawn: Masked, axes: tuple[int, ...], keepdims: bool) -> None:
    count, mean, var = functional.moments(drawn.other, axes, mask=drawn.mask, keepdims=keepdims)
    x = np.ma.masked_array(drawn.x.astype(float), ~drawn.mask)
    want = [np.sum(drawn.mask, axes, keepdims=keepdims)]
    want += [np.ma.filled(v, 0) for v in (x.mean(axes, keepdims=keepdims), x.var(axes, keepdims=keepdims))]
    largest = np.abs(drawn.x).max()
    for got, expect, atol in zip((count, mean, var), want, (0, 1e-6 * largest, 1e-6 * largest), strict=True):
        np.testing.assert_allclose(got, expect, rtol=1e-5, atol=atol)


@few
@given(masked_inputs((12,)), st.integers(0, 12))
def test_moments_merge(drawn: Masked, cut: int) -> None:
    """Those of two parts, however they are cut, merge to those of the whole; and merging knows no order."""
    parts = []
    for part in (slice(None, cut), slice(cut, None)):
        count, mean, var = functional.moments(drawn.x[part], mask=drawn.mask[part])
        parts.append(Moments(count, mean, var * count))
    whole = functional.moments(drawn.x, mask=drawn.mask)
    for merged in (merge(*parts), merge(*reversed(parts))):
        np.testing.assert_allclose(merged.count, whole.count)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-5, atol=1e-6 * np.abs(drawn.x).max())
        np.testing.assert_allclose(merged.var, whole.var, rtol=1e-4, atol=1e-6 * np.abs(drawn.x).max())


@few
@given(masked_inputs((2, 4, 6)), options, st.sampled_from([1, 2, 3, 6]))
def test_groups_are_layer_norms_side_by_side(drawn: Masked, given: Any, num_groups: int) -> None:
    """Channels in the middle, on a small input: no short way through it may forget the groups."""
    x, mask = (np.moveaxis(v, -1, 1) for v in (drawn.other, drawn.mask))
    y = functional.group_norm(x, num_groups, feature_axis=1, mask=mask, **given)
    split = [v.reshape(2, num_groups, 6 // num_groups, 4) for v in (x, mask)]
    want = functional.layer_norm(split[0], mask=split[1], reduction_axes=(-2, -1), **given).reshape(x.shape)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(np.asarray(want)).max()))
