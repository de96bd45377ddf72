"""Leaky neurons with a norm in a loop, with kernels and without: the gradients of the loss are the same."""

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np

from braindnorm import LayerNorm, cpu_kernels


def gradients() -> dict[str, np.ndarray]:
    norm = LayerNorm(640, unit=u.mV, out_unit=u.UNITLESS)
    drive = brainstate.random.RandomState(0).normal(-60, 3, (8, 128, 640)) * u.mV

    def loss() -> jnp.ndarray:
        def step(v: jnp.ndarray, current: u.Quantity) -> tuple[jnp.ndarray, jnp.ndarray]:
            v = 0.9 * v + norm(current, mask=current > -63 * u.mV)
            return v, jnp.sum(jnp.tanh(v)) / 128

        return jnp.sum(brainstate.transform.scan(step, jnp.zeros((128, 640)), drive)[1])

    found = brainstate.transform.jit(brainstate.transform.grad(loss, norm.states()))()
    return {f"{path}.{key}": np.asarray(v) for path, values in found.items() for key, v in values.items()}


plain = gradients()
assert cpu_kernels.enable()
kernels = gradients()
for key, value in plain.items():
    assert np.max(np.abs(value)) > 0.01
    np.testing.assert_allclose(kernels[key], value, rtol=2e-5, atol=2e-5)
print("the same")
