"""The pools of DivisiveNorm: at any scale of the drive, with what is not finite, under masks, and across devices."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import DivisiveNorm, errors
from braindnorm.functional import divisive_norm

RNG = np.random.default_rng(1)
MASK = RNG.random((4, 6)) > 0.3


def exact(d, sigma, n, pool, gamma=1.0, valid=True):
    """Return the equation's response in extended precision, in whose range every power is."""
    d, sigma = np.maximum(np.asarray(d, np.longdouble), 0), np.asarray(sigma, np.longdouble)
    power = d ** np.longdouble(n)
    counted = np.where(valid, power, 0)
    if isinstance(pool, str):
        number = 1 if pool == "sum" else np.broadcast_to(valid, d.shape).sum(-1, keepdims=True)
        pooled = counted.sum(-1, keepdims=True) / np.maximum(number, 1)
    else:
        pooled = counted @ np.asarray(pool, np.longdouble).T
    divisor = sigma ** np.longdouble(n) + pooled
    return np.where(divisor > 0, gamma * power / np.where(divisor > 0, divisor, 1), 0)


@pytest.mark.parametrize(
    ("drive", "sigma", "options", "expected"),
    [
        ([1e38, 2e38, 3e38], 1.0, {}, [3 / 14, 12 / 14, 27 / 14]),
        ([1e38, 2e38, 3e38], 1.0, {"exponent": 1, "pool": "sum"}, [1 / 6, 2 / 6, 3 / 6]),
        ([2e-37, 4e-37], 0.0, {"pool": "sum"}, [0.2, 0.8]),
        ([1.0, 1e10], 1.0, {"exponent": 4, "pool": np.eye(2)}, [0.5, 1.0]),
        ([1e-20, 1e3], 1e-20, {"pool": np.eye(2)}, [0.5, 1.0]),
        ([1e-20, 1e3], 1e-20, {"pool": np.eye(2), "exponent": 8}, [0.5, 1.0]),
        ([1e-30, 1e30], 1e-30, {"pool_axes": ()}, [0.5, 1.0]),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1e12], {"pool": "sum"}, [0.25, 0.25, 1e-24]),
        ([1e20, 1.0], [0.0, 0.0], {"pool": np.array([[1e-8, 0], [0, 1e8]])}, [1e8, 1e-8]),
        ([1.0, 1e30], [0.0, 0.0], {"exponent": 0.5, "pool": "sum"}, [1e-15, 1.0]),
    ],
)
def test_no_element_is_lost_beside_a_much_larger_one(drive, sigma, options, expected):
    got = divisive_norm(np.asarray(drive, np.float32), np.asarray(sigma, np.float32), **options)
    np.testing.assert_allclose(got, expected, rtol=3e-6)


@pytest.mark.parametrize("pool", ["mean", "sum", "weights"])
@pytest.mark.parametrize("n", [0.5, 1, 2, 2.5, 4, 30])
def test_any_magnitude(n, pool):
    """Drives and sigmas from 1e-36 to 3e38: right wherever the response itself is in the range of the dtype.

    The pools of a matrix see what is 24 decades below the strongest drive.
    """
    rng = np.random.default_rng(3)
    weights = pool if pool != "weights" else (rng.random((5, 5)) * (rng.random((5, 5)) > 0.5)).astype(np.float32)
    respond = jax.jit(lambda d, s: divisive_norm(d, s, exponent=n, pool=weights))
    ranges = [(-36, -12), (14, 38), (37, 38.4), (-37, -36), (-3, 3)]
    for low, high in ranges if pool == "weights" else [(-36, 38), *ranges]:
        drive = (10.0 ** rng.uniform(low, high, (40, 5)) * (rng.random((40, 5)) > 0.2)).astype(np.float32)
        for sigma in (np.zeros(5), np.full(5, np.median(drive)), 10.0 ** rng.uniform(-36, 38, 5)):
            sigma = sigma.astype(np.float32)
            expected, got = exact(drive, sigma, n, weights), np.asarray(respond(drive, sigma), np.longdouble)
            within = (expected > 1e-34) & (expected < 1e37)
            np.testing.assert_allclose(got[within], expected[within], rtol=3e-6 * max(1, n / 2))
            np.testing.assert_array_less(got[expected <= 1e-34], 1e-33)
            assert (got[expected >= 1e37] > 9e36).all()


@pytest.mark.parametrize("sigma", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_sigma_that_the_compiler_knows(n, sigma):
    """A constant of the program meets other rewritings than an argument of it."""
    drive = np.array([0.5, 1, 2, 4], np.float32) * np.float32(1e15)
    got = jax.jit(lambda d: divisive_norm(d, sigma, exponent=n, pool="sum"))(drive)
    np.testing.assert_allclose(got, exact(drive, sigma, n, "sum").astype(float), rtol=3e-6, atol=1e-34)


@pytest.mark.parametrize("prefix", [1e-12, 1.0, 1e12])
def test_a_weight_of_zero_in_an_empty_pool_has_its_derivative(prefix):
    """With w = 0, R = D^2 / (sigma^2 + w D_j^2) falls with the slope D^2 D_j^2 / sigma^4."""
    drive = np.array([3.0, 5.0], np.float32) * np.float32(prefix)
    slope = jax.grad(lambda w: divisive_norm(drive, 2 * prefix, pool=w)[0])(jnp.zeros((2, 2)))
    np.testing.assert_allclose(slope, [[-81 / 16, -225 / 16], [0, 0]], rtol=2e-6)


@pytest.mark.parametrize("prefix", [1e-30, 1e-12, 1e9, 1e30])
@pytest.mark.parametrize("n", [1, 2, 2.5])
def test_any_prefix_gives_the_same_gradients(prefix, n):
    """The gradient in the drive times the prefix is that in the unit itself; so is the second order."""
    drive, sigma = np.abs(RNG.normal(2, 3, 5)).astype(np.float32), np.float32(1.5)

    def relative(scale):
        def loss(d, s):
            return (divisive_norm(d * scale, s * scale, exponent=n, pool="sum") ** 2).sum()

        return jax.jit(lambda d, s: (loss(d, s), jax.grad(loss, (0, 1))(d, s), jax.hessian(loss)(d, s)))(drive, sigma)

    for a, b in zip(jax.tree.leaves(relative(prefix)), jax.tree.leaves(relative(1.0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_double_precision_has_its_own_range():
    with brainstate.environ.context(precision=64):
        drive = jnp.asarray([1e-300, 1.0, 1e300])
        for pool in ("sum", np.eye(3)):
            got = divisive_norm(drive, 1.0, exponent=3, pool=pool)
            assert got.dtype == jnp.float64
            expected = exact(drive, 1.0, 3, pool)
            np.testing.assert_allclose(got, expected.astype(np.float64), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize(("dtype", "largest"), [(jnp.float16, 6e4), (jnp.bfloat16, 3e38)])
def test_half_precision_near_its_maximum(dtype, largest):
    drive = jnp.asarray(np.array([0.25, 0.5, 1]) * largest, dtype)
    got = divisive_norm(drive, jnp.ones((), dtype), jnp.ones((), dtype), exponent=4)
    assert got.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got.astype(np.float32), exact(drive.astype(np.float32), 1, 4, "mean"), rtol=eps)


def test_weights_too_large_for_the_dtype_are_seen():
    assert np.isnan(divisive_norm(jnp.ones(2), pool=np.full((2, 2), 1e38, np.float32))).all()


def test_half_precision_stays_half_under_a_change_of_prefix():
    got = DivisiveNorm(3, unit=u.mV, sigma=1.0, dtype=None)(jnp.ones(3, jnp.float16) * u.volt)
    assert got.dtype == jnp.float32  # sigma is of single precision
    plain = divisive_norm(jnp.ones(3, jnp.float16) * u.volt, 1.0, unit=u.mV, out_unit=u.UNITLESS)
    assert plain.dtype == jnp.float16


@pytest.mark.parametrize("pool", ["mean", "sum", np.ones((2, 2))], ids=["mean", "sum", "matrix"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("n", [1, 1.5, 2])
def test_a_drive_that_is_not_finite_is_seen_in_its_pool(value, pool, n):
    got = divisive_norm(jnp.array([[value, 2.0], [1.0, 2.0]]), exponent=n, pool=pool)
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_drive_that_is_not_finite_leaves_the_pools_it_is_not_in(value):
    got = divisive_norm(jnp.array([value, 2.0]), 1.0, pool=np.eye(2))
    np.testing.assert_allclose(got, [np.nan, 0.8], rtol=1e-6)


def test_a_rectified_drive_of_minus_infinity_is_zero():
    np.testing.assert_allclose(divisive_norm(jnp.array([-jnp.inf, 2.0]), 1.0), [0, 4 / 3], rtol=1e-6)
    assert np.isnan(divisive_norm(jnp.array([-jnp.inf, 2.0]), 1.0, rectify=False)).all()


def test_a_traced_sigma_and_gamma_that_are_nan_are_seen():
    respond = jax.jit(divisive_norm)
    np.testing.assert_array_equal(np.isnan(respond(jnp.ones(3), jnp.array([jnp.nan, 1, 1]))), [True, False, False])
    np.testing.assert_array_equal(np.isnan(respond(jnp.ones(3), 1.0, jnp.array([1, jnp.nan, 1]))), [False, True, False])
    np.testing.assert_array_equal(respond(jnp.ones(2), jnp.array([jnp.inf, 1]))[0], 0)  # the limit


def test_nan_in_the_padding_does_not_alarm_debug_nans():
    drive = jnp.array([jnp.nan, 2], jnp.float16)
    with jax.debug_nans(True):
        for mode in ("zero", "normalize"):
            got = divisive_norm(drive, 1.0, mask=np.array([0, 1]), masked_output=mode)
            np.testing.assert_allclose(got, [0, 0.8], rtol=1e-3)


@pytest.mark.parametrize("pool", ["mean", "sum", "matrix"])
def test_masked_output(pool):
    drive = RNG.normal(2, 3, (4, 6)).astype(np.float32)
    weights = RNG.random((6, 6)).astype(np.float32) if pool == "matrix" else pool
    expected = exact(drive, 1.5, 2, weights, gamma=3.0, valid=MASK).astype(np.float32)
    other = {"zero": 0 * drive, "input": drive, "normalize": expected}
    for mode, padding in other.items():
        norm = DivisiveNorm(6, sigma=1.5, gamma=3.0, pool=weights, masked_output=mode)
        np.testing.assert_allclose(norm(drive, mask=MASK), np.where(MASK, expected, padding), rtol=3e-6)
        poisoned = norm(np.where(MASK, drive, np.nan), mask=MASK)
        left = np.nan if mode == "input" else 0
        np.testing.assert_allclose(poisoned, np.where(MASK, expected, left), rtol=3e-6)


def test_masked_input_comes_out_in_the_unit_of_the_output():
    norm = DivisiveNorm(2, sigma=1 * u.mV, out_unit=u.volt, masked_output="input")
    got = norm(jnp.array([2.0, 3.0]) * u.mV, mask=[1, 0])
    np.testing.assert_allclose(got.to_decimal(u.volt), [0.8, 0.003], rtol=1e-6)


def test_masked_output_where_nothing_is_valid_is_that_of_an_empty_pool():
    got = divisive_norm(jnp.array([2.0, 6.0]), 2.0, mask=[0, 0], masked_output="normalize")
    np.testing.assert_allclose(got, [1, 9], rtol=1e-6)


@pytest.mark.parametrize(("unit", "times"), [(u.pA, 1e9), (u.nA, 1e6), (u.amp, 1e-3)])
def test_the_parameters_of_the_layer_hold_any_prefix(unit, times):
    norm = DivisiveNorm(3, sigma=1 * u.mA, gamma=2 * u.mA, unit=unit, out_unit=unit)
    np.testing.assert_allclose(norm.sigma.value(), times, rtol=3e-6)
    np.testing.assert_allclose(norm(jnp.ones(3) * u.mA).to_decimal(u.mA), 1.0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_axis_without_elements(shape):
    assert divisive_norm(jnp.zeros(shape)).shape == shape


GROUPS = {"all": None, "groups": [[0, 3, 4, 6], [1, 2, 5, 7]]}


def bind(f, how):
    """Map f over 8 devices along the leading axis."""
    if how == "vmap":
        return brainstate.transform.vmap(f, axis_name="i")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("i",))
    spec = jax.sharding.PartitionSpec("i")
    one = jax.shard_map(
        lambda *v: f(*(a[0] for a in v))[None], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=how == "check_vma"
    )
    return one


@pytest.mark.parametrize("how", ["vmap", "check_vma", "no check_vma"])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("kind", ["alike", "whole"])
def test_a_matrix_across_devices(kind, groups, how):
    """A matrix of all elements is that of the whole array; one of the local size weights every device alike."""
    indices = GROUPS[groups] or [list(range(8))]
    local, total = 3, 3 * len(indices[0])
    rng = np.random.default_rng(5)
    drive, valid = rng.uniform(0.1, 4, (8, 2, local)).astype(np.float32), rng.random((8, 2, local)) > 0.3
    size = local if kind == "alike" else total
    weights = (rng.random((size, size)) * (rng.random((size, size)) > 0.4)).astype(np.float32)
    full = np.tile(weights, (total // size, total // size))

    def sharded(d, w):
        def one(x, m):
            return divisive_norm(x, 1.5, pool=w, mask=m, axis_name="i", axis_index_groups=GROUPS[groups])

        return bind(one, how)(d, jnp.asarray(valid))

    expected = np.zeros(drive.shape)
    for row in indices:
        joined = np.concatenate(drive[row], -1), np.concatenate(valid[row], -1)
        response = exact(joined[0], 1.5, 2, full, valid=joined[1]) * joined[1]
        expected[row] = np.split(response.astype(float), len(row), -1)
    np.testing.assert_allclose(jax.jit(sharded)(drive, weights), expected, rtol=3e-6)

    def whole(d, w):
        w = jnp.tile(w, (total // size, total // size))
        parts = [(jnp.concatenate(list(d[np.array(r)]), -1), np.concatenate(valid[r], -1)) for r in indices]
        return sum((divisive_norm(x, 1.5, pool=w, mask=m) ** 2).sum() for x, m in parts)

    found = jax.jit(jax.grad(lambda d, w: (sharded(d, w) ** 2).sum(), (0, 1)))(drive, weights)
    for a, b in zip(found, jax.jit(jax.grad(whole, (0, 1)))(drive, weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_not_finite_stays_in_its_group_of_devices():
    drive = jnp.ones((4, 3)).at[0, 1].set(jnp.nan)
    one = brainstate.transform.vmap(
        lambda d: divisive_norm(d, axis_name="i", axis_index_groups=[[0, 2], [1, 3]]), axis_name="i"
    )
    np.testing.assert_array_equal(np.isnan(one(drive)).all(-1), [True, False, True, False])
    assert np.isfinite(one(drive)[1::2]).all()


@pytest.mark.parametrize(
    ("rows", "groups", "error", "says"),
    [
        (5, None, errors.AxisError, r"\(5, 5\) weights does not fit 3 elements on each of 4 devices.*\(12, 12\)"),
        (6, [[0], [1, 2, 3]], errors.OptionError, r"are of different length, but the matrix is one for all of them"),
    ],
)
def test_a_matrix_that_does_not_fit_the_devices_is_refused(rows, groups, error, says):
    def one(d):
        return divisive_norm(d, pool=np.eye(rows), axis_name="i", axis_index_groups=groups)

    with pytest.raises(error, match=says):
        brainstate.transform.vmap(one, axis_name="i")(jnp.ones((4, 3)))


def test_groups_without_an_axis_are_refused():
    with pytest.raises(errors.OptionError, match=r"divides a mapped axis, but axis_name is None"):
        divisive_norm(jnp.ones(3), axis_index_groups=[[0]])


def test_weights_are_multiplied_in_the_precision_of_the_input():
    """Some accelerators multiply matrices with three digits unless they are told otherwise."""
    program = str(jax.make_jaxpr(lambda d: divisive_norm(d, pool=np.eye(3)))(jnp.ones(3)))
    assert "Precision.HIGHEST" in program
