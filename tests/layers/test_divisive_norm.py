"""DivisiveNorm: against the equation in float64, in values and in gradients."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.nn import Param, SoftplusT

from braindnorm import DivisiveNorm, RMSNorm, errors
from braindnorm.functional import divisive_norm

RNG = np.random.default_rng(0)
DRIVE = RNG.normal(2, 3, (4, 6, 5)).astype(np.float32)
WEIGHTS = RNG.random((5, 5)).astype(np.float32)
MASK = RNG.random((4, 6, 5)) > 0.3


def reference(d, sigma, gamma, n, pool, axes=(-1,), signed=False, mask=None):
    """Return the response by the equation, one pool at a time where it is a matrix."""
    d = np.asarray(d, np.float64)
    valid = np.ones(d.shape, bool) if mask is None else np.broadcast_to(mask, d.shape)
    sign = np.sign(d) if signed else (d > 0)
    power = np.where(valid, (np.abs(d) if signed else np.maximum(d, 0)) ** n, 0)
    if isinstance(pool, str):
        pooled = power.sum(axes, keepdims=True)
        if pool == "mean":
            pooled = pooled / np.maximum(valid.sum(axes, keepdims=True), 1)
    else:
        pooled = np.stack([(power * row).sum(-1) for row in np.asarray(pool, np.float64)], -1)
    return np.where(valid, gamma * sign * power / (np.asarray(sigma, np.float64) ** n + pooled), 0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pool", ["mean", "sum", WEIGHTS], ids=["mean", "sum", "matrix"])
@pytest.mark.parametrize("n", [0.5, 1, 1.5, 2, 3.0])
def test_value(n, pool, masked, signed):
    mask = MASK if masked else None
    got = jax.jit(lambda d: divisive_norm(d, 1.5, 3.0, exponent=n, pool=pool, mask=mask, rectify=not signed))(DRIVE)
    expected = reference(DRIVE, 1.5, 3.0, n, pool, signed=signed, mask=mask)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("axes", [(-1,), (-2, -1), (0,)])
def test_axes(axes):
    got = divisive_norm(DRIVE, 1.5, exponent=2, pool_axes=axes, mask=MASK)
    np.testing.assert_allclose(got, reference(DRIVE, 1.5, 1, 2, "mean", axes, mask=MASK), rtol=2e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("pool", ["mean", "sum", WEIGHTS], ids=["mean", "sum", "matrix"])
@pytest.mark.parametrize("n", [0.7, 1, 2, 2.5])
def test_gradients(n, pool, signed):
    """The derivatives are those of the equation, by central differences in float64."""
    cotangent = RNG.normal(size=DRIVE.shape)
    sigma, gamma = RNG.uniform(0.5, 2, 5), RNG.uniform(0.5, 2, 5)
    arguments = [DRIVE.astype(np.float64), sigma, gamma]

    def loss(d, s, g):
        return (divisive_norm(d, s, g, exponent=n, pool=pool, rectify=not signed, mask=MASK) * cotangent).sum()

    def exact(*values):
        return (reference(*values, n, pool, signed=signed, mask=MASK) * cotangent).sum()

    found = jax.jit(jax.grad(loss, (0, 1, 2)))(*[jnp.asarray(v, jnp.float32) for v in arguments])
    step = 1e-5
    for which, gradient in enumerate(found):
        for index in [(0,), (3,)] if which else [(0, 0, 0), (1, 3, 2), (3, 5, 4)]:
            up, down = ([np.array(v) for v in arguments] for _ in "ud")
            up[which][index] += step
            down[which][index] -= step
            numeric = (exact(*up) - exact(*down)) / (2 * step)
            np.testing.assert_allclose(gradient[index], numeric, rtol=1e-4, atol=1e-5)
    assert not np.any(np.asarray(found[0])[~MASK])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n", [0.5, 1, 1.5, 2, 3])
def test_a_drive_of_zero_has_finite_gradients(n, signed):
    def loss(d, s):
        return divisive_norm(d, s, exponent=n, rectify=not signed).sum()

    for value in jax.tree.leaves(
        jax.jit(lambda d, s: (jax.grad(loss, (0, 1))(d, s), jax.hessian(loss)(d, s)))(jnp.zeros(4), 1.0)
    ):
        assert np.isfinite(value).all()


def test_the_slope_at_zero():
    """For n = 1 and a sign, R rises from 0 with slope gamma / sigma; for n > 1 it is flat there."""
    slope = jax.grad(lambda d, n: divisive_norm(d, 4.0, 2.0, exponent=n, rectify=False)[0])
    np.testing.assert_allclose(slope(jnp.zeros(3), 1), [0.5, 0, 0])
    np.testing.assert_array_equal(slope(jnp.zeros(3), 2), 0)


@pytest.mark.parametrize(("scale", "sigma"), [(1e30, 1e30), (1e-30, 1e-30), (1e30, 1.0), (1.0, 1e30), (1e30, 0.0)])
def test_powers_do_not_overflow(scale, sigma):
    """D^4 would be 1e120 here."""
    drive = (np.array([0.5, 1, 2, 4]) * scale).astype(np.float32)
    response, gradient = jax.jit(jax.value_and_grad(lambda d: divisive_norm(d, sigma, exponent=4, pool="sum")[1]))(
        drive
    )
    expected = reference(drive, sigma, 1, 4, "sum")[1]
    np.testing.assert_allclose(response, expected, rtol=1e-5, atol=1e-37)
    assert np.isfinite(gradient).all()


def test_no_drive_and_no_sigma_give_no_response():
    response, gradient = jax.value_and_grad(lambda d: divisive_norm(d, 0.0).sum())(jnp.zeros(3))
    assert response == 0
    np.testing.assert_array_equal(gradient, 0)


def test_padding_may_hold_anything():
    poisoned = jnp.where(MASK, DRIVE, jnp.where(RNG.random(DRIVE.shape) > 0.5, jnp.nan, jnp.inf))
    norm = DivisiveNorm(5, sigma=1.5)
    np.testing.assert_array_equal(norm(poisoned, mask=MASK), norm(DRIVE, mask=MASK))
    gradient = jax.grad(lambda d: (norm(d, mask=MASK) ** 2).sum())
    np.testing.assert_array_equal(gradient(poisoned), gradient(jnp.asarray(DRIVE)))
    np.testing.assert_array_equal(norm(poisoned, mask=jnp.zeros(5, bool)), 0)


def test_an_empty_pool_leaves_sigma():
    """An element that nobody inhibits, itself included, responds with gamma (D / sigma)^n."""
    weights = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(divisive_norm(jnp.array([6.0, 1.0]), 2.0, 5.0, pool=weights)[0], 45.0, rtol=1e-6)


@pytest.mark.parametrize("exponent", [1, 2])
def test_relation_to_rms_norm(exponent):
    """n = 2 on |x|, or n = 1 on x^2 with sigma^2: the square of x / sqrt(sigma^2 + mean x^2)."""
    x, sigma = DRIVE * u.mV, 0.7 * u.mV
    rms = RMSNorm(5, epsilon=sigma, unit=u.mV, out_unit=u.UNITLESS, use_scale=False)(x)
    drive = abs(x) if exponent == 2 else x**2
    response = divisive_norm(drive, sigma ** (2 / exponent), exponent=exponent, out_unit=u.UNITLESS)
    np.testing.assert_allclose(jnp.sign(DRIVE) * jnp.sqrt(response), rms, rtol=2e-6)
    if exponent == 2:
        signed = divisive_norm(x, sigma, rectify=False, out_unit=u.UNITLESS)
        np.testing.assert_allclose(signed, jnp.sign(DRIVE) * rms**2, rtol=4e-6)


def test_it_can_be_built_inside_a_transform():
    build = brainstate.transform.jit(lambda sigma: DivisiveNorm(5, sigma=sigma, unit=u.mV)(DRIVE * u.mV).mantissa)
    np.testing.assert_allclose(build(2.0), reference(DRIVE, 2, 1, 2, "mean"), rtol=2e-6)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_pool_across_the_shards_of_a_mesh(check_vma):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    options = {"pool": "sum", "pool_axes": (0, 1), "exponent": 3}

    def both(d, s):
        return jax.jit(lambda v: (s(v), jax.grad(lambda w: (s(w) ** 2).sum())(v)))(d)

    sharded = jax.shard_map(
        lambda d: divisive_norm(d, 1.5, axis_name="i", **options),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=check_vma,
    )
    drive = jnp.asarray(DRIVE.reshape(24, 5))
    found = both(drive, sharded)
    for a, b in zip(found, both(drive, lambda d: divisive_norm(d, 1.5, **options)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_the_unit_of_the_same_drive_does_not_matter():
    norm = DivisiveNorm(5, sigma=20 * u.Hz, gamma=50 * u.pA)
    in_hz, in_khz = norm(DRIVE * u.Hz), norm(DRIVE * 1e-3 * u.kHz)
    assert in_hz.unit == u.pA
    np.testing.assert_allclose(in_hz.mantissa, in_khz.to_decimal(u.pA), rtol=1e-5)
    np.testing.assert_allclose(in_hz.mantissa, reference(DRIVE, 20, 50, 2, "mean"), rtol=2e-6)
    other = DivisiveNorm(5, sigma=0.02 * u.kHz, gamma=50e-3 * u.nA)(DRIVE * u.Hz)
    np.testing.assert_allclose(other.to_decimal(u.pA), in_hz.mantissa, rtol=1e-5)


def test_parameters_are_plain_positive_and_read_back_with_their_units():
    norm = DivisiveNorm(5, sigma=20 * u.Hz, gamma=50 * u.pA)
    states = norm.states(brainstate.ParamState)
    assert {value.value.shape for value in states.values()} == {(5,)}
    assert not any(isinstance(value.value, u.Quantity) for value in states.values())
    assert u.math.allclose(norm.sigma_quantity, 20 * u.Hz)
    assert u.math.allclose(norm.gamma_quantity, 50 * u.pA)
    for state in states.values():
        state.value = state.value - 12
    assert (norm.sigma.value() > 0).all() and (norm.gamma.value() > 0).all()


def test_gamma_counts_in_the_unit_of_the_drive_unless_it_says_more():
    assert u.math.allclose(DivisiveNorm(5, unit=u.mV, gamma=3.0).gamma_quantity, 3 * u.mV)
    assert u.math.allclose(DivisiveNorm(5, gamma=3.0).gamma_quantity, 3.0)
    assert DivisiveNorm(5, unit=u.mV, out_unit=u.nA)(DRIVE * u.mV).unit == u.nA


def test_a_step_of_learning_does_not_depend_on_the_prefix():
    def gradients(norm):
        states = norm.states(brainstate.ParamState)
        return brainstate.transform.grad(lambda: norm(DRIVE * u.mV).to_decimal(u.nA).sum(), states)()

    a = gradients(DivisiveNorm(5, sigma=3 * u.mV, gamma=2 * u.nA))
    b = gradients(DivisiveNorm(5, sigma=3e-3 * u.volt, gamma=2e3 * u.pA))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4)


def test_a_param_is_taken_as_it_is():
    sigma = Param(3.0, t=SoftplusT(0.0), fit=False)
    norm = DivisiveNorm(5, sigma=sigma, gamma=Param(2.0), pool=Param(WEIGHTS, t=SoftplusT(0.0)))
    assert norm.sigma is sigma
    assert len(norm.states(brainstate.ParamState)) == 2
    np.testing.assert_allclose(norm(DRIVE), reference(DRIVE, 3, 2, 2, WEIGHTS), rtol=1e-5)
    gradient = brainstate.transform.grad(lambda: norm(DRIVE).sum(), norm.states(brainstate.ParamState))()
    assert all(np.abs(g).sum() > 0 for g in jax.tree.leaves(gradient))


def test_initializers_and_shared_parameters():
    norm = DivisiveNorm((6, 5), feature_axes=(), sigma=brainstate.nn.init.Constant(2.0 * u.mV))
    assert norm.sigma.value().shape == (1, 1)
    assert norm.unit == u.mV
    np.testing.assert_allclose(norm(DRIVE * u.mV).mantissa, reference(DRIVE, 2, 1, 2, "mean"), rtol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    drive = jnp.asarray(np.abs(DRIVE) * 5e3, dtype)
    response = divisive_norm(drive, jnp.asarray(1e4, dtype), jnp.asarray(1, dtype), exponent=3)
    assert response.dtype == dtype
    expected = reference(np.asarray(drive, np.float64), 1e4, 1, 3, "mean")
    np.testing.assert_allclose(response.astype(jnp.float32), expected, rtol=float(jnp.finfo(dtype).eps) * 4, atol=1e-7)


def test_spikes_become_float():
    assert DivisiveNorm(5)(DRIVE > 2).dtype == jnp.float32
    assert divisive_norm(np.ones(3, np.int32)).dtype == jnp.float32


@pytest.mark.parametrize("pool", ["mean", "sum"])
@pytest.mark.parametrize("groups", [None, [[0], [1, 2, 3]]])
def test_sharded_equals_whole(pool, groups):
    """Parts of a pool on four devices, with as many valid elements on each as the mask leaves."""
    parts = DRIVE.reshape(4, 30)

    def sharded(d):
        def one(row, valid):
            options = {"axis_name": "i", "axis_index_groups": groups}
            return divisive_norm(row, 1.5, pool=pool, mask=valid, **options)

        return brainstate.transform.vmap(one, axis_name="i")(d, jnp.asarray(MASK.reshape(4, 30)))

    def whole(d):
        valid, rows = MASK.reshape(4, 30), [[0, 1, 2, 3]] if groups is None else groups
        return jnp.concatenate(
            [divisive_norm(d[np.array(r)], 1.5, pool=pool, pool_axes=(0, 1), mask=valid[np.array(r)]) for r in rows]
        )

    def both(f):
        return jax.jit(lambda d: (f(d), jax.grad(lambda v: (f(v) ** 2).sum())(d)))(parts)

    (value, gradient), (expected, expected_gradient) = both(sharded), both(whole)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_drive_that_is_not_finite_is_seen_in_large_arrays(bad: float) -> None:
    """XLA for CPU loses NaN in the sum of a maximum."""
    drive = np.random.default_rng(0).normal(size=(600, 3, 4)).astype(np.float32)
    drive[11, 1, 2] = bad
    expected = np.zeros(drive.shape, bool)
    expected[11, 1] = True
    for options in ({}, {"pool": "sum"}, {"sigma": np.ones_like(drive)}):
        assert np.array_equal(np.isnan(divisive_norm(drive, **options)), expected)


def test_a_negative_sigma_that_is_known_too_late() -> None:
    drive = np.array([1.0, 3.0, -1.0])
    found = np.asarray(jax.jit(lambda s: divisive_norm(drive, s, exponent=2, pool="sum"))(np.array([1.0, -1.0, 0.0])))
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[::2], [1 / 11, 0], rtol=1e-6)


def test_transforms_agree():
    norm = DivisiveNorm(5, sigma=1.5, exponent=1.5)
    direct = norm(DRIVE)
    np.testing.assert_allclose(brainstate.transform.jit(norm)(DRIVE), direct, rtol=1e-6)
    np.testing.assert_allclose(brainstate.transform.vmap(norm)(DRIVE), direct, rtol=1e-6)
    np.testing.assert_allclose(brainstate.transform.for_loop(norm, DRIVE), direct, rtol=1e-6)
    with pytest.raises(errors.OptionError, match="exponent must be known when a program is traced"):
        jax.grad(lambda n: divisive_norm(DRIVE, 1.0, exponent=n).sum())(2.0)
    tangent = jax.jvp(lambda d: norm(d).sum(), (DRIVE,), (np.ones_like(DRIVE),))[1]
    np.testing.assert_allclose(tangent, jax.grad(lambda d: norm(d).sum())(DRIVE).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"exponent": 0}, errors.OptionError, r"exponent must be one number above 0 and at most 100; got 0"),
        ({"exponent": [1, 2]}, errors.OptionError, r"exponent must be one number above 0 and at most 100; got \[1"),
        ({"sigma": -1.0}, errors.OptionError, r"sigma must be finite, zero or larger; got -1.0"),
        ({"sigma": 0.0}, errors.OptionError, r"sigma must begin as one positive number"),
        ({"gamma": [1.0, 2.0]}, errors.OptionError, r"gamma must begin as one positive number.*shape \(5,\); got"),
        ({"sigma": 2 * u.nA, "unit": u.mV}, errors.UnitError, r"sigma is in nA, but the input is in mV"),
        ({"gamma": 2 * u.nA, "out_unit": u.mV}, errors.UnitError, r"gamma is in nA, but out_unit is in mV"),
        ({"pool": "max"}, errors.OptionError, r"pool must be 'mean', 'sum' or a matrix of weights; got 'max'"),
        ({"pool": np.ones((2, 3))}, errors.OptionError, r"a square matrix, .* got shape \(2, 3\)"),
        ({"pool": -np.eye(5)}, errors.OptionError, r"weights must be finite, zero or larger"),
        ({"exponent": 101}, errors.OptionError, r"above 0 and at most 100; got 101"),
        ({"exponent": float("nan")}, errors.OptionError, r"above 0 and at most 100; got nan"),
        ({"rectify": "no"}, errors.OptionError, r"rectify must be True or False; got 'no'"),
        ({"sigma": "big"}, errors.DtypeError, r"sigma must be a number, an array of numbers or a quantity; got 'big'"),
        ({"sigma": None}, errors.OptionError, r"sigma must be a number, .* got None"),
        ({"sigma": 1j}, errors.DtypeError, r"sigma is complex, for which divisive normalization is not defined"),
        ({"gamma": 1j}, errors.DtypeError, r"gamma is complex, for which divisive normalization is not defined"),
        ({"gamma": float("inf")}, errors.OptionError, r"gamma must begin as one positive number"),
        ({"pool": [[1.0, 2.0], [3.0]]}, errors.DtypeError, r"pool must be a number, an array of numbers or a quantity"),
        ({"pool": np.eye(5) * u.mV}, errors.UnitError, r"pool's weights are in mV, but weights are plain numbers"),
        ({"pool": np.eye(5) * 1j}, errors.DtypeError, r"pool is complex"),
        ({"pool": None}, errors.OptionError, r"pool must be a number, .* got None"),
        ({"masked_output": "keep"}, errors.OptionError, r"masked_output must be 'zero', 'input' or 'normalize'"),
        ({"axis_name": 0}, errors.OptionError, r"axis_name must be the name of a mapped axis"),
        ({"axis_index_groups": [[0]]}, errors.OptionError, r"axis_index_groups=\[\[0\]\] divides a mapped axis, but"),
        ({"unit": "mV"}, errors.UnitError, r"unit must be a brainunit Unit"),
        ({"dtype": jnp.int32}, errors.DtypeError, r"dtype=int32 cannot hold"),
        ({"in_size": 0}, errors.AxisError, r"in_size must be a positive integer"),
        ({"feature_axes": 3}, errors.AxisError, r"feature_axes=3 has no axis 3"),
    ],
)
def test_what_no_input_could_make_right_is_refused_at_once(options, error, says):
    with pytest.raises(error, match=says):
        DivisiveNorm(**{"in_size": 5, **options})


@pytest.mark.parametrize(
    ("options", "x", "error", "says"),
    [
        ({"sigma": 2 * u.mV}, DRIVE, errors.UnitError, r"declared with unit=mV, but got a plain array"),
        ({"sigma": 2 * u.mV}, DRIVE * u.nA, errors.UnitError, r"declared with unit=mV, but got an input in nA"),
        ({"in_size": 4}, DRIVE, errors.AxisError, r"sigma of shape \(4,\) does not broadcast to an input of shape"),
        ({"pool": np.eye(4)}, DRIVE, errors.AxisError, r"needs one pool axis of length 4; got pool_axes=\(2,\)"),
        ({"pool": np.eye(5), "pool_axes": (0, -1)}, DRIVE, errors.AxisError, r"needs one pool axis of length 5"),
        ({"pool_axes": 3}, DRIVE, errors.AxisError, r"pool_axes=\(3,\) has no axis 3"),
        ({"masked_output": "input", "unit": u.mV, "out_unit": u.nA}, DRIVE * u.mV, errors.UnitError, r"would pass an"),
        ({}, DRIVE * 1j, errors.DtypeError, r"the input is complex"),
        ({"axis_name": "i"}, DRIVE, errors.AxisNameError, r"axis_name='i', but no such axis is bound here"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(options, x, error, says):
    with pytest.raises(error, match=says):
        DivisiveNorm(**{"in_size": 5, **options})(x)


def test_an_error_about_a_dtype_names_the_parameters_of_this_norm():
    with pytest.raises(errors.DtypeError, match="divisive_norm: gamma or sigma is boolean"):
        divisive_norm(DRIVE, gamma=np.True_)


def test_a_float_mask_is_refused():
    with pytest.raises(errors.MaskError, match="not weights"):
        DivisiveNorm(5)(DRIVE, mask=np.ones(5))


def test_an_array_of_numpy_is_handed_over_whole() -> None:
    x = np.array([1.0, 3.0], np.float32)
    norm = DivisiveNorm(2)
    assert np.array_equal(x >> norm, norm(x))
    assert np.array_equal(((x * u.mV) >> norm).mantissa, norm(x))
