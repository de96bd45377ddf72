"""Options of JAX that refuse what it would do implicitly."""

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


@pytest.mark.parametrize("masked_output", ["zero", "normalize"])
@pytest.mark.parametrize("fast", [True, False], ids=["default", "compensated"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", NORMS)
def test_nothing_is_promoted_implicitly(kind: str, option: str, mask: str, fast: bool, masked_output: str) -> None:
    """Forward, backward and both under vmap, with a scale and a bias of one axis."""

    def loss(x: Any, scale: Any, bias: Any) -> Any:
        how: dict[str, Any] = {"mask": MASKS[mask], "use_fast_variance": fast, "masked_output": masked_output}
        how |= {"bias": bias} if kind in CENTRED else {}
        return jnp.sum(NORMS[kind].function(x, scale=scale, **how) ** 2)

    at = jnp.asarray(draw(3, 4, 8)), jnp.ones(8), jnp.ones(8)
    want = jax.grad(loss, (0, 1, 2))(*at)
    before = getattr(jax.config, option)
    jax.config.update(option, OPTIONS[option])
    try:
        found = jax.grad(loss, (0, 1, 2))(*at)
        lanes = jax.vmap(jax.grad(loss, (0, 1, 2)), (0, None, None))(at[0][None], *at[1:])
    finally:
        jax.config.update(option, before)
    for one, lane, wanted in zip(found, lanes, want, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-6)
        np.testing.assert_allclose(lane[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_mask_that_is_a_constant_is_not_counted_while_a_program_is_compiled() -> None:
    """XLA would take seconds for what the program does in a moment."""
    mask = np.random.default_rng(0).random((64, 100)) < 0.8
    f = jax.jit(lambda x: functional.layer_norm(x, mask=mask))
    text = export.export(f)(jax.ShapeDtypeStruct(mask.shape, jnp.float32)).mlir_module()
    barriers = [line for line in text.splitlines() if "optimization_barrier" in line]
    assert any("tensor<64x100xi1>" in line for line in barriers)
