"""A mask that is a constant of a program is counted before, and by nothing in the program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from braindnorm import LayerNorm, cpu_kernels, functional, step_mask
from braindnorm._numerics.counts import counts_of, pilot_axis, sixteenth
from braindnorm.masks._align import align
from tests.support import reference

RNG = np.random.default_rng(0)
SHAPE = (6, 40, 8)
X = RNG.normal(-65, 5, SHAPE).astype(np.float32)
MASK = RNG.random(SHAPE) < 0.6
MASK[3] = MASK[:, :10, :4] = False
MASKS = {"element": MASK, "step": MASK[:, :, :1], "feature": MASK[:1, 20:21], "none of a trial": MASK[:, :1, :1]}
# which axes, and how many groups the last is in
OVER = [((0,), None), ((1,), None), ((1, 2), None), ((0, 1, 2), None), ((1,), 4), ((0, 1), 1), ((), 2)]


@pytest.mark.parametrize("name", MASKS)
def test_the_counts_are_those_of_every_group(name: str) -> None:
    for axes, groups in OVER:
        seen = np.broadcast_to(MASKS[name], SHAPE)
        count = seen.sum(axes, keepdims=True)
        if groups:
            of_groups = count.reshape(*count.shape[:2], groups, -1).sum(-1)
            count = of_groups.repeat(SHAPE[2] // groups, 2)
        found = counts_of(SHAPE, MASKS[name], axes, 2 if groups else None, groups or 1)
        assert found is not None
        assert np.array_equal(np.broadcast_to(found.whole.array, count.shape), count)


def test_the_part_is_a_sixteenth_of_an_axis_that_the_mask_does_not_have() -> None:
    late = np.arange(40)[:, None] >= [[10, 0]]
    found = counts_of((40, 2), late, (0,))
    assert found is not None
    assert found.part.array.tolist() == [[0, 4]]
    assert found.missed
    assert found == counts_of((40, 2), late.copy(), (0,))
    assert hash(found) == hash(counts_of((40, 2), late.copy(), (0,)))
    assert found != counts_of((40, 2), ~late, (0,))
    within = counts_of((40, 32, 2), late[:, None], (0, 1))
    assert within is not None
    assert within.part.array.tolist() == [[[120, 160]]]
    assert not within.missed


def test_a_part_misses_a_group_of_which_it_has_next_to_nothing() -> None:
    mask = np.ones((2, 1600), bool)
    mask[1, 1:100] = False
    few = counts_of((2, 1600), mask, (1,))
    mask[1, 1:25] = True
    enough = counts_of((2, 1600), mask, (1,))
    assert few is not None and few.missed and enough is not None and not enough.missed


def test_the_part_is_of_the_axis_of_which_it_is_least() -> None:
    """Of 8 trials of 1000 steps a sixteenth is taken of the steps: of the trials it would be half."""
    assert pilot_axis((8, 1000, 3), (1, 1, 1), (0, 1)) == 1
    assert pilot_axis((8, 1000, 3), (8, 1000, 1), (0, 1)) == 1
    assert pilot_axis((8, 1000, 3), (1, 1000, 1), (0, 1)) == 0
    assert pilot_axis((64, 128, 3), (1, 1, 1), (0, 1)) == 0


def test_a_sixteenth_is_one_or_several_rows() -> None:
    assert [sixteenth(n) for n in (0, 1, 16, 17, 64, 65, 1600)] == [0, 1, 1, 4, 4, 5, 100]


def test_what_a_program_has_to_count() -> None:
    assert counts_of((2**18, 2), np.ones((2**18, 2), bool), (1,)) is None
    (rows,) = jax.export.symbolic_shape("b")
    assert counts_of((rows, 4), np.ones((1, 4), bool), (0,)) is None


NORMS: dict[str, Any] = {
    "layer": (functional.layer_norm, reference.layer_norm, {"reduction_axes": (1, 2)}),
    "rms": (functional.rms_norm, reference.rms_norm, {"reduction_axes": (1,)}),
    "group": (functional.group_norm, reference.group_norm, {"num_groups": 4, "reduction_axes": (1,)}),
    "channels alone": (functional.group_norm, reference.group_norm, {"num_groups": 2, "reduction_axes": ()}),
    "one group": (functional.group_norm, reference.group_norm, {"num_groups": 1, "reduction_axes": (0, 1)}),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_under_constant_masks(name: str) -> None:
    """With kernels and without, by what is compiled and what ``vmap`` maps within it."""
    norm, exact, options = NORMS[name]

    def all_masks(x: jax.Array) -> Any:
        return {key: norm(x, mask=jnp.asarray(mask), **options) for key, mask in MASKS.items()}

    with cpu_kernels.disabled():
        plain = jax.jit(all_masks)(X)
    lanes = jax.jit(jax.vmap(lambda x: norm(x, mask=MASK.astype(int).tolist(), **options)))(np.stack([X, -2 * X]))
    for key, y in [*plain.items(), *jax.jit(all_masks)(X).items(), ("element", lanes[0])]:
        np.testing.assert_allclose(y, exact(X, mask=MASKS[key], **options), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lanes[1], exact(-2 * X, mask=MASK, **options), rtol=2e-5, atol=2e-5)


def test_moments_and_pools_under_constant_masks() -> None:
    @jax.jit
    def found(x: jax.Array) -> Any:
        return functional.moments(x, (1,), mask=MASK), functional.divisive_norm(-x, 1.0, pool_axes=(1,), mask=MASK)

    (count, mean, var), response = found(X)
    of_valid = np.ma.array(X.astype(float), mask=~MASK)
    np.testing.assert_array_equal(count, MASK.sum(1))
    np.testing.assert_allclose(mean, of_valid.mean(1).filled(0), rtol=1e-6)
    np.testing.assert_allclose(var, of_valid.var(1).filled(0), rtol=1e-5)
    drive = np.where(MASK, X.astype(float), 0) ** 2
    pool = drive.sum(1, keepdims=True) / np.maximum(MASK.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(response, drive / (1 + pool), rtol=1e-5)


@pytest.mark.parametrize("axes", [(1,), (2,)], ids=str)
def test_the_program_has_no_sum_of_the_mask(axes: tuple[int, ...]) -> None:
    """An argument is counted: of the mask as floats there is a sum more in the program."""

    def sums(f: Any, *arguments: Any) -> int:
        with cpu_kernels.disabled():
            text = jax.jit(f).lower(*arguments).as_text()
        return sum(text.count(name) for name in ("stablehlo.reduce(", "dot_general"))

    def norm(x: Any, mask: Any) -> Any:
        return functional.rms_norm(x, reduction_axes=axes, mask=mask)

    assert sums(lambda x: norm(x, MASK), X) == sums(norm, X, MASK) - 1


def test_only_a_program_keeps_the_values_of_a_mask() -> None:
    """Outside of one each mask would be compiled anew."""
    kinds: list[type] = []

    def seen(x: Any, mask: Any) -> Any:
        kinds.append(type(align(mask, x.shape)))
        return x

    of_jax, numbers = jnp.asarray(MASK), jnp.asarray(MASK, int)
    jax.vmap(lambda x: seen(x, MASK[0]))(X)
    jax.grad(lambda x: seen(x, of_jax).sum())(X)
    assert not any(issubclass(kind, np.ndarray) for kind in kinds)
    kinds.clear()
    jax.make_jaxpr(lambda x: (seen(x, MASK), seen(x, of_jax), seen(x, numbers), seen(x, MASK[0].tolist())))(X)
    assert all(issubclass(kind, np.ndarray) for kind in kinds)


def test_a_step_mask_of_jax_that_is_a_constant_of_the_program() -> None:
    norm, alive = LayerNorm(8), jnp.arange(6) % 2 == 0

    @jax.jit
    def inside(x: jax.Array) -> Any:
        with step_mask(alive):
            return norm(x)

    want = reference.layer_norm(X, mask=np.asarray(alive)[:, None, None])
    np.testing.assert_allclose(inside(X), want, rtol=2e-5, atol=2e-5)
