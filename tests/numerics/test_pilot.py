"""The centre that masked data are summed about: near the mean of each group, whatever the mask leaves of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm._numerics import pilot
from braindnorm._numerics.moments import Reduction

STEPS, CELLS = 640, 6


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(-65, 5, (STEPS, CELLS)).astype(np.float32), rng.random((STEPS, CELLS)) < 0.8


def mean(x: np.ndarray, mask: np.ndarray) -> Any:
    return np.where(mask, x.astype(float), 0).sum(0, keepdims=True) / np.maximum(mask.sum(0, keepdims=True), 1)


@jax.jit
def centre(x: Any, mask: Any) -> jax.Array:
    return pilot.centre(x, mask, Reduction((0,)))


def test_it_is_the_mean_of_some_if_every_group_has_any_there() -> None:
    x, mask = data()
    mask[:, 2] = False
    first = STEPS // 16
    mask[0] |= np.arange(CELLS) != 2
    np.testing.assert_allclose(centre(np.where(mask, x, np.nan), mask), mean(x[:first], mask[:first]), rtol=1e-6)


def test_it_is_the_mean_of_all_if_a_group_begins_later() -> None:
    x, mask = data()
    mask[: STEPS // 2, 2] = False
    np.testing.assert_allclose(centre(np.where(mask, x, np.nan), mask), mean(x, mask), rtol=1e-6)


def test_it_is_the_mean_of_all_if_a_group_has_next_to_none_there() -> None:
    """One of 540 may be an outlier, and 23 standard deviations off: sums about it would lose three digits."""
    x, mask = data()
    x[0, 2], mask[1 : STEPS // 16, 2], mask[0, 2] = 1e4, False, True
    np.testing.assert_allclose(centre(x, mask), mean(x, mask), rtol=1e-6)


def test_it_takes_a_part_of_an_axis_that_the_mask_does_not_have() -> None:
    x, mask = data()
    x = np.stack([x] * 16, 1) + np.arange(16, dtype=np.float32)[:, None]
    mask[: STEPS // 2, 2] = False
    found = jax.jit(lambda x, mask: pilot.centre(x, mask, Reduction((0, 1))))(x, mask[:, None])
    np.testing.assert_allclose(found[0], mean(x[:, 0], mask), rtol=1e-6)


@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (2, 1)], ids=str)
def test_each_lane_has_its_own(mapped: Any) -> None:
    """It stays one choice for all lanes, and no lane pays for both sides of it."""
    x, mask = data()
    lanes = np.stack([x, x + 1, x - 1])
    late = np.stack([mask, mask, mask])
    late[1, : STEPS // 2, 2] = False
    masks = late if mapped[1] is not None else mask
    moved = [np.moveaxis(lanes, 0, mapped[0]), masks if mapped[1] is None else np.moveaxis(masks, 0, mapped[1])]
    call = jax.jit(jax.vmap(lambda x, mask: pilot.centre(x, mask, Reduction((0,))), mapped))
    first = STEPS if mapped[1] is not None else STEPS // 16
    every = np.broadcast_to(masks, lanes.shape)
    want = [mean(v[:first], m[:first]) for v, m in zip(lanes, every, strict=True)]
    np.testing.assert_allclose(call(*moved), want, rtol=1e-6)
    assert "stablehlo.case" in call.lower(*moved).as_text()


def test_channels_of_a_group_have_one() -> None:
    x, mask = data()
    over = Reduction((0,), 1, 2)
    found = jax.jit(lambda x, mask: pilot.centre(x, mask, over))(x, mask)
    first = STEPS // 16
    rows = x[:first].reshape(first, 2, 3).transpose(0, 2, 1).reshape(-1, 2)
    some = mask[:first].reshape(first, 2, 3).transpose(0, 2, 1).reshape(-1, 2)
    np.testing.assert_allclose(found[0], np.repeat(mean(rows, some)[0], 3), rtol=1e-6)


def test_no_gradient_goes_through_it() -> None:
    x, mask = data()
    assert not jnp.any(jax.grad(lambda x: jnp.sum(centre(x, mask)))(x))


def test_of_few_it_is_the_mean_of_all() -> None:
    """A mask mostly leaves some group nothing of a small part, and then a branch is taken that costs more."""
    rows = data()[0].reshape(-1, 60)
    call = jax.jit(lambda x, mask: pilot.centre(x, mask, Reduction((1,))))
    assert "case" not in call.lower(rows, rows < -65).as_text()
    want = mean(rows.T, rows.T < -65).T
    np.testing.assert_allclose(call(rows, rows < -65), want, rtol=1e-6)
