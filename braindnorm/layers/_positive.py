"""The transform that keeps sigma and gamma positive."""

from typing import Any

import jax
import jax.numpy as jnp
from brainstate.nn import ExpT


class PositiveT(ExpT):
    r"""The parameter is the logarithm of the value, :math:`v = e^\theta`, whatever the value.

    The transform that it is made from holds the value below :math:`e^{20}`, which 1 mA exceeds where pA are counted.
    """

    def __init__(self) -> None:
        super().__init__(0.0)

    def forward(self, x: Any) -> jax.Array:
        """Return exp(x)."""
        return jnp.exp(x)
