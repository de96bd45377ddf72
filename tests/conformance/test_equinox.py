"""equinox.nn's norms and ours give the same values and gradients."""

from typing import Any

import equinox as eqx
import jax
import pytest

from tests.conformance.agreement import (
    AT_REST,
    CHANNELS_FIRST,
    DTYPES,
    GROUPS_AT_REST,
    TRAILING,
    Answer,
    Case,
    check,
    gradients_rounded_once,
    in_half,
    ours,
    through_jax,
)

CASES = [*in_half([*TRAILING, *CHANNELS_FIRST]), *AT_REST, *GROUPS_AT_REST]


def theirs(case: Case) -> Answer:
    if case.kind == "group":
        layer: Any = eqx.nn.GroupNorm(case.groups, case.shape[1], case.epsilon)
        batch_axes = 1
    else:
        kind = eqx.nn.LayerNorm if case.kind == "layer" else eqx.nn.RMSNorm
        layer = kind(case.size, case.epsilon, "scale" in case.learned, "bias" in case.learned)
        batch_axes = len(case.shape) - len(case.size)

    def call(learned: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        f = eqx.tree_at(lambda m: [m.weight, m.bias][: len(learned)], layer, [learned[key] for key in case.learned])
        for _ in range(batch_axes):
            f = jax.vmap(f)
        return f(x)

    return through_jax(case, call)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    check(case, theirs(case))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_where_equinox_is_less_exact_gradients_of_groups_in_half_precision(dtype: str) -> None:
    case = CHANNELS_FIRST[1]._replace(dtype=dtype)
    assert gradients_rounded_once(case, ours(case))
    assert not gradients_rounded_once(case, theirs(case))
