"""The one place where it is chosen how to centre and how to lower."""

from typing import Any

import jax.numpy as jnp
import pytest

from braindnorm._numerics.moments import Reduction
from braindnorm._numerics.plan import Centring, Lowering, Plan, plan_for

FLOAT32, FLOAT16 = jnp.dtype("float32"), jnp.dtype("float16")


def chosen(shape: tuple[int, ...], axes: tuple[int, ...] = (1,), mask: Any = None, **options: Any) -> Plan:
    x_dtype = options.pop("x_dtype", FLOAT32)
    over = options.pop("over", Reduction(axes))
    how: dict[str, Any] = {"centred": True, "compensated": False, "dtype": FLOAT32, "backend": "cpu"} | options
    return plan_for(shape, x_dtype, mask, over, **how)


CENTRINGS: dict[str, tuple[Centring, Plan]] = {
    "not centred": (Centring.NONE, chosen((256, 1024), centred=False)),
    "not centred and compensated": (Centring.NONE, chosen((256, 1024), centred=False, compensated=True)),
    "rows": (Centring.MEAN, chosen((256, 1024))),
    "a step mask": (Centring.MEAN, chosen((256, 1024), mask=(256, 1))),
    "compensated": (Centring.COMPENSATED, chosen((256, 1024), compensated=True)),
    "columns": (Centring.PILOT, chosen((256, 1024), axes=(0,))),
    "columns, on a GPU": (Centring.MEAN, chosen((256, 1024), axes=(0,), backend="gpu")),
    "few in a row": (Centring.PILOT, chosen((256, 64))),
    "few in a group of channels": (Centring.PILOT, chosen((8, 16, 64), over=Reduction((1,), 2, 16))),
    "a mask within groups": (Centring.TWICE, chosen((256, 1024), mask=(256, 1024))),
    "columns under a step mask": (Centring.TWICE, chosen((256, 1024), axes=(0,), mask=(1, 1024))),
    "no axes": (Centring.MEAN, chosen((256, 1024), axes=())),
}
LOWERINGS: dict[str, tuple[Lowering, Plan]] = {
    "a GPU": (Lowering.FREE, chosen((256, 1024), backend="gpu")),
    "small": (Lowering.DOTS, chosen((64, 128))),
    "small, of a length that would lose digits": (Lowering.BARRIERS, chosen((64, 600))),
    "of middle size": (Lowering.BARRIERS, chosen((256, 1024))),
    "large": (Lowering.TILES, chosen((8192, 1024))),
    "large and masked": (Lowering.BARRIERS, chosen((8192, 1024), mask=(8192, 1))),
    "large, along columns": (Lowering.BARRIERS, chosen((8192, 1024), axes=(0,))),
    "large and not centred": (Lowering.BARRIERS, chosen((8192, 1024), centred=False)),
    "large, not centred, half": (Lowering.TILES, chosen((8192, 1024), centred=False, x_dtype=FLOAT16)),
}


@pytest.mark.parametrize("case", CENTRINGS)
def test_how_to_centre(case: str) -> None:
    wanted, plan = CENTRINGS[case]
    assert plan.centring is wanted


@pytest.mark.parametrize("case", LOWERINGS)
def test_how_to_lower(case: str) -> None:
    wanted, plan = LOWERINGS[case]
    assert plan.lowering is wanted


def test_a_derivative_is_never_taken_in_tiles() -> None:
    assert chosen((8192, 1024)).with_derivatives().lowering is Lowering.BARRIERS
    assert chosen((64, 128)).with_derivatives().lowering is Lowering.DOTS
