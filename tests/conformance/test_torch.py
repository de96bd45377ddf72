"""torch.nn's norms and ours give the same values and gradients."""

from typing import Any

import numpy as np
import pytest
import torch

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
    numbers,
    ours,
)

CASES = [*in_half([*TRAILING, *CHANNELS_FIRST]), *AT_REST, *GROUPS_AT_REST]
NAMES = {"scale": "weight", "bias": "bias"}


def theirs(case: Case) -> Answer:
    dtype = getattr(torch, case.dtype)

    def tensor(v: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(v, np.float64)).to(dtype)

    x, g, learned, _ = numbers(case)
    if case.kind == "group":
        layer: Any = torch.nn.GroupNorm(case.groups, case.shape[1], case.epsilon, dtype=dtype)
    else:
        kind = torch.nn.LayerNorm if case.kind == "layer" else torch.nn.RMSNorm
        layer = kind(case.size, case.epsilon, elementwise_affine=bool(learned), dtype=dtype)
    layer.load_state_dict({NAMES[key]: tensor(v) for key, v in learned.items()})
    leaf = tensor(x).requires_grad_(True)
    y = layer(leaf)
    y.backward(tensor(g))
    answer = {"value": y, "x": leaf.grad, **{key: getattr(layer, NAMES[key]).grad for key in learned}}
    return {key: v.detach().double().numpy() for key, v in answer.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    check(case, theirs(case))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("case", [TRAILING[0], CHANNELS_FIRST[1]], ids=str)
def test_where_torch_is_less_exact_gradients_in_half_precision(case: Case, dtype: str) -> None:
    case = case._replace(dtype=dtype)
    assert gradients_rounded_once(case, ours(case))
    assert not gradients_rounded_once(case, theirs(case))
