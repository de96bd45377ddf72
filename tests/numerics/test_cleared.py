"""What is masked, by bits, and its derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from braindnorm._numerics.cleared import cleared


def test_what_is_masked_is_left_out_by_bits() -> None:
    """It is 0 whatever it was, and so are its derivatives of both orders; a mask may be of any lower size."""
    x = np.array([[1.5, np.nan, -np.inf], [-2.0, 3.0, np.inf]], np.float32)
    mask = np.array([[True, False, False], [True, True, False]])
    dx = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)

    @jax.jit
    def program(x: Any, dx: Any) -> Any:
        pushed = jax.jvp(lambda x: cleared(x, jnp.asarray(mask)), (x,), (dx,))
        bent = jax.jvp(jax.grad(lambda x: jnp.sum(cleared(x, jnp.asarray(mask)) ** 3)), (x,), (dx,))[1]
        return *pushed, bent, cleared(dx, jnp.asarray(mask[:, :1])), cleared(dx.astype(jnp.float16), jnp.asarray(mask))

    y, dy, bent, rows, half = program(x, dx)
    np.testing.assert_array_equal(y, np.where(mask, x, 0))
    np.testing.assert_array_equal(dy, np.where(mask, dx, 0))
    np.testing.assert_allclose(bent, np.where(mask, 6 * np.where(mask, x, 0) * dx, 0), rtol=1e-6)
    np.testing.assert_array_equal(rows, dx)
    np.testing.assert_array_equal(half, np.where(mask, dx, 0))
    assert half.dtype == jnp.float16
