"""The unit and the share of a pool: at any scale of the drive, in one precision or in two."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from braindnorm._numerics.deferred import TINY
from braindnorm._numerics.scaled_sums import Powers
from braindnorm._numerics.shares import has_shares, share_of_pool

ROWS, COLUMNS = 300, 8
MEAN, SUM = Powers((1,), 2.0, True, mean=True), Powers((1,), 3.0, False)
# of rows: sigma and the drive are 0, nothing is valid, the drive leaves the range, above and below, or is not finite
ZERO, EMPTY, LARGE, SMALL, BROKEN = range(5)


@jax.jit
def with_slopes(x: Any, sigma: Any, valid: Any, cotangent: Any) -> Any:
    (unit, share), pull = jax.vjp(lambda x, sigma: share_of_pool(MEAN, x, sigma, valid), x, sigma)
    return unit, share, *pull((jnp.zeros_like(unit), jnp.full_like(share, cotangent)))


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (ROWS, COLUMNS)).astype(np.float32)
    sigma = rng.uniform(0.5, 2, (ROWS, 1)).astype(np.float32)
    return x, sigma, rng.random((ROWS, COLUMNS)) < 0.8


@pytest.mark.parametrize(
    ("prefix", "apart"), [(1.0, False), (1.0, True), (1e-14, False), (1e-35, False), (1e37, False)]
)
def test_a_mean_of_squares_at_any_scale(prefix: float, apart: bool) -> None:
    """In values and in both gradients, also beside rows that leave the range by themselves."""
    x, sigma, valid = data()
    x, sigma = np.float32(prefix) * x, np.float32(prefix) * sigma
    if apart:
        x[ZERO], sigma[ZERO], valid[EMPTY], x[LARGE], x[SMALL], sigma[SMALL] = -1, 0, False, 3e38, 2e-37, 0
        valid[LARGE], valid[SMALL], x[BROKEN, 2], valid[BROKEN] = True, True, np.inf, True
    unit, share, of_x, of_sigma = with_slopes(np.where(valid, x, np.nan), sigma, valid, max(prefix, 1.0))
    sound = np.arange(ROWS) != (BROKEN if apart else -1)
    assert np.isnan(share[~sound]).all()
    number = np.maximum(valid.sum(1, keepdims=True), 1)
    u = np.asarray(unit, np.longdouble)
    near, own = np.where(valid & np.isfinite(x), np.maximum(x, 0), 0) * u, sigma * u
    divisor = own**2 + (near**2).sum(1, keepdims=True) / number
    want = np.where(divisor > 0, 1 / np.where(divisor > 0, divisor, 1), 0)
    np.testing.assert_allclose(share[sound], want.astype(float)[sound], rtol=1e-6)
    slopes = -(want**2) * 2 * near / number, -(want**2) * 2 * own
    for got, slope in zip((of_x, of_sigma), slopes, strict=True):
        expected = (slope * u * max(prefix, 1.0)).astype(float)
        np.testing.assert_allclose(got[sound], expected[sound], rtol=2e-6, atol=1e-33)


def test_lanes_share_one_choice_and_few_elements_need_none() -> None:
    x, sigma, _ = data()
    lanes = np.stack([x, 1e3 * x, 1e-25 * x]).astype(np.float32)
    call = jax.jit(jax.vmap(lambda x, sigma: share_of_pool(SUM, x, sigma, None), in_axes=(0, None)))
    assert call.lower(lanes, sigma).as_text().count("stablehlo.case") == 1
    unit, share = (np.asarray(v, float) for v in call(lanes, sigma))
    want = sigma.astype(float) ** 3 + (np.abs(lanes.astype(float)) ** 3).sum(2, keepdims=True)
    np.testing.assert_allclose(share * unit**3, 1 / want, rtol=1e-6)
    few = TINY // (3 * COLUMNS)
    assert "stablehlo.case" not in call.lower(lanes[:, :few], sigma[:few]).as_text()


def test_within_shard_map_it_is_single_precision() -> None:
    x, sigma, valid = data()
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("device",)), PartitionSpec("device")
    call = jax.jit(
        jax.shard_map(lambda *given: share_of_pool(MEAN, *given), mesh=mesh, in_specs=(spec,) * 3, out_specs=spec)
    )
    assert "f64" not in call.lower(x, sigma, valid).as_text()
    unit, share = (np.asarray(v, float) for v in call(x, sigma, valid))
    size = np.where(valid, np.maximum(x, 0), 0).astype(float)
    want = sigma.astype(float) ** 2 + (size**2).sum(1, keepdims=True) / valid.sum(1, keepdims=True)
    np.testing.assert_allclose(share * unit**2, 1 / want, rtol=1e-6)


def test_which_pools_have_shares() -> None:
    x, one = jnp.ones((4, 3)), jnp.ones((1, 1))
    assert has_shares(MEAN, x, one)
    for powers in (MEAN._replace(exponent=2.5), MEAN._replace(exponent=8.0), MEAN._replace(axes=())):
        assert not has_shares(powers, x, one)
    assert not has_shares(MEAN, x, jnp.ones((1, 3)))
    assert not has_shares(MEAN, x[:, :1], one)
