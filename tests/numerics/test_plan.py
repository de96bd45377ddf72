"""The one place where it is chosen how to centre."""

from typing import Any

import jax.numpy as jnp
import pytest

from braindnorm._numerics.barriers import Sizes
from braindnorm._numerics.moments import Reduction
from braindnorm._numerics.plan import LARGE, SMALL, Centring, Plan, plan_for

FLOAT32, FLOAT16 = jnp.dtype("float32"), jnp.dtype("float16")


def chosen(shape: tuple[int, ...], axes: tuple[int, ...] = (1,), mask: Any = None, **options: Any) -> Plan:
    x_dtype = options.pop("x_dtype", FLOAT32)
    over = options.pop("over", Reduction(axes))
    how: dict[str, Any] = {"centred": True, "compensated": False, "dtype": FLOAT32} | options
    return plan_for(shape, x_dtype, mask, over, **how)


CENTRINGS: dict[str, tuple[Centring, Plan]] = {
    "not centred": (Centring.NONE, chosen((256, 1024), centred=False)),
    "not centred and compensated": (Centring.NONE, chosen((256, 1024), centred=False, compensated=True)),
    "rows": (Centring.MEAN, chosen((256, 1024))),
    "a step mask": (Centring.MEAN, chosen((256, 1024), mask=(256, 1))),
    "compensated": (Centring.COMPENSATED, chosen((256, 1024), compensated=True)),
    "columns": (Centring.PILOT, chosen((256, 1024), axes=(0,))),
    "few in a row": (Centring.PILOT, chosen((256, 64))),
    "few in a group of channels": (Centring.PILOT, chosen((8, 16, 64), over=Reduction((1,), 2, 16))),
    "a mask within groups": (Centring.PILOT, chosen((256, 1024), mask=(256, 1024))),
    "columns under a step mask": (Centring.PILOT, chosen((256, 1024), axes=(0,), mask=(1, 1024))),
    "no axes": (Centring.MEAN, chosen((256, 1024), axes=())),
}
UNFENCED: dict[str, tuple[Sizes, Plan]] = {
    "rows": ((SMALL, LARGE), chosen((8192, 1024))),
    "masked": ((), chosen((8192, 1024), mask=(8192, 1))),
    "columns": ((SMALL,), chosen((8192, 1024), axes=(0,))),
    "groups of channels": ((SMALL,), chosen((8, 16, 64), over=Reduction((1,), 2, 16))),
    "not centred": ((SMALL,), chosen((8192, 1024), centred=False)),
    "not centred, half": ((SMALL, LARGE), chosen((8192, 1024), centred=False, x_dtype=FLOAT16)),
}


@pytest.mark.parametrize("case", CENTRINGS)
def test_how_to_centre(case: str) -> None:
    wanted, plan = CENTRINGS[case]
    assert plan.centring is wanted


@pytest.mark.parametrize("case", UNFENCED)
def test_where_no_barrier_stands(case: str) -> None:
    wanted, plan = UNFENCED[case]
    assert plan.unfenced == wanted


def test_barriers_stand_beside_a_derivative() -> None:
    assert not chosen((8192, 1024)).with_derivatives().unfenced
