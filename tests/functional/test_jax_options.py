"""Options of JAX that refuse what it would do implicitly."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from braindnorm import functional
from tests.support.norms import CENTRED, NORMS, draw

OPTIONS = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"}
MASKS: dict[str, Any] = {
    "none": None,
    "booleans": np.random.default_rng(1).random((3, 4, 8)) < 0.7,
    "integers": np.random.default_rng(1).integers(0, 2, (3, 4, 1)),
    "of jax": jnp.asarray(np.random.default_rng(1).integers(0, 2, (3, 4, 8))),
}


@pytest.fixture
def strictly() -> Iterator[Callable[[], None]]:
    """Return what sets the options; they are taken back after the test."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}

    def choose(options: dict[str, str]) -> None:
        for name, value in options.items():
            jax.config.update(name, value)

    yield lambda: choose(OPTIONS)
    choose(before)


@pytest.mark.parametrize("masked_output", ["zero", "normalize"])
@pytest.mark.parametrize("fast", [True, False], ids=["default", "compensated"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", NORMS)
def test_nothing_is_promoted_implicitly(kind: str, mask: str, fast: bool, masked_output: str, strictly: Any) -> None:
    """Forward, backward and both under vmap, with a scale and a bias of one axis, are the same programs."""

    def loss(x: Any, scale: Any, bias: Any) -> Any:
        how: dict[str, Any] = {"mask": MASKS[mask], "use_fast_variance": fast, "masked_output": masked_output}
        how |= {"bias": bias} if kind in CENTRED else {}
        return jnp.sum(NORMS[kind].function(x, scale=scale, **how) ** 2)

    def programs() -> list[str]:
        """Trace anew: JAX keeps what it traced under other options apart."""
        gradient = jax.value_and_grad(loss, (0, 1, 2))
        x, parameter = jax.ShapeDtypeStruct((3, 4, 8), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.float32)
        lanes = jax.ShapeDtypeStruct((2, 3, 4, 8), jnp.float32)
        return [
            jax.jit(gradient).lower(x, parameter, parameter).as_text(),
            jax.jit(jax.vmap(gradient, (0, None, None))).lower(lanes, parameter, parameter).as_text(),
        ]

    usual = programs()
    strictly()
    assert programs() == usual


def test_a_call_of_its_own_runs_under_these_options(strictly: Any) -> None:
    """Outside of any program too, where a call is compiled by the package itself."""
    x, mask = draw(3, 4, 8), MASKS["booleans"]
    usual = [norm.function(x, mask=mask) for norm in NORMS.values()]
    strictly()
    for norm, want in zip(NORMS.values(), usual, strict=True):
        np.testing.assert_array_equal(norm.function(x, mask=mask), want)


def test_a_mask_that_follows_from_constants_is_not_counted_while_a_program_is_compiled() -> None:
    """XLA would take seconds for what the program does in a moment."""
    mask = np.random.default_rng(0).random((64, 100)) < 0.8
    f = jax.jit(lambda x: functional.layer_norm(x, mask=jnp.logical_not(mask)))
    text = export.export(f)(jax.ShapeDtypeStruct(mask.shape, jnp.float32)).mlir_module()
    barriers = [line for line in text.splitlines() if "optimization_barrier" in line]
    assert any("tensor<64x100xi1>" in line for line in barriers)
