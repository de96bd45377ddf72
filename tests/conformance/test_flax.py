"""flax.nnx's norms and ours give the same values and gradients, where flax is right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from braindnorm import GroupNorm
from tests.conformance.agreement import (
    ANYWHERE,
    AT_REST,
    CHANNELS_LAST,
    DTYPES,
    TRAILING,
    Answer,
    Case,
    check,
    gradients_rounded_once,
    in_half,
    numbers,
    ours,
    through_jax,
    truth,
)
from tests.support import reference
from tests.support.norms import draw

RIGHT = [*TRAILING, *ANYWHERE, *CHANNELS_LAST]
CASES = in_half([*RIGHT, *(case._replace(masked=True) for case in RIGHT)])
CAREFUL = [*AT_REST, *(case._replace(masked=True) for case in AT_REST)]


def theirs(case: Case, **options: Any) -> Answer:
    """Return flax' answer, with zeros where it is masked."""
    options |= {"epsilon": case.epsilon, "param_dtype": getattr(jnp, case.dtype), "rngs": nnx.Rngs(0)}
    options["use_scale"] = "scale" in case.learned
    if case.kind != "rms":
        options["use_bias"] = "bias" in case.learned
    count = int(np.prod(case.size))
    if case.kind == "group":
        layer: Any = nnx.GroupNorm(count, case.groups, **options)
    else:
        kind = nnx.LayerNorm if case.kind == "layer" else nnx.RMSNorm
        layer = kind(count, reduction_axes=case.axes, feature_axes=case.learned_axes, **options)
    graph, state = nnx.split(layer)
    tree, mask = jax.tree.structure(state), numbers(case).mask

    def call(learned: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        module = nnx.merge(graph, jax.tree.unflatten(tree, [learned[key].reshape(count) for key in sorted(learned)]))
        return module(x) if mask is None else jnp.where(mask, module(x, mask=jnp.asarray(mask)), 0)

    return through_jax(case, call)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    check(case, theirs(case))


@pytest.mark.parametrize("case", CAREFUL, ids=str)
def test_a_membrane_at_rest_without_their_fast_variance(case: Case) -> None:
    check(case, theirs(case, use_fast_variance=False))


@pytest.mark.parametrize("case", CAREFUL, ids=str)
def test_where_flax_is_wrong_its_default_variance_at_rest(case: Case) -> None:
    """E[x^2] - E[x]^2 loses -65 +- 0.01 to rounding; ours is right in the test above, by default."""
    wrong, want = theirs(case), truth(case)
    for key in ("value", "x", "scale"):
        assert np.abs(wrong[key] - want[key]).max() > 0.1 * np.abs(want[key]).max()


def test_where_flax_is_wrong_groups_under_two_kept_axes() -> None:
    """Its statistics go to other positions, since they are repeated along axis 1 whatever that is."""
    x = draw(2, 3, 6) * np.arange(1, 7, dtype=np.float32)
    want = reference.group_norm(x, 3)
    scrambled = nnx.GroupNorm(6, 3, reduction_axes=-1, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))(x)
    assert np.abs(np.asarray(scrambled) - want).max() > 0.5
    np.testing.assert_allclose(GroupNorm(6, num_groups=3, reduction_axes=-1)(x), want, rtol=1e-5, atol=1e-5)


def test_where_flax_is_wrong_a_mask_that_broadcasts_over_channels() -> None:
    x, mask = draw(2, 5, 6), np.arange(5)[:, None] < 3
    with pytest.raises(TypeError, match="cannot reshape"):
        nnx.GroupNorm(6, 3, rngs=nnx.Rngs(0))(x, mask=jnp.asarray(mask))
    want = reference.group_norm(x, 3, reduction_axes=1, mask=mask)
    np.testing.assert_allclose(GroupNorm(6, num_groups=3)(x, mask=mask), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("case", [TRAILING[0], CHANNELS_LAST[1]], ids=str)
def test_where_flax_is_less_exact_gradients_in_half_precision(case: Case, dtype: str) -> None:
    case = case._replace(dtype=dtype)
    assert gradients_rounded_once(case, ours(case))
    assert not gradients_rounded_once(case, theirs(case))
