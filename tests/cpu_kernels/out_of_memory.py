"""Kernels that do not get the memory for their sums: the call raises, and a later one is right."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np

from braindnorm import cpu_kernels, functional

BATCH, CHANNELS = 8, 4004  # a task each; no other length is asked for here
refuse = ctypes.CDLL(None).refuse
refuse.argtypes = [ctypes.c_size_t]
assert cpu_kernels.enable()


def over_space(x: jax.Array) -> jax.Array:
    return functional.group_norm(x, num_groups=4, reduction_axes=(1,))


def check(call: jax.stages.Wrapped, size: int, x: jax.Array) -> None:
    wanted = np.asarray(call(x))
    refuse(size)
    for _ in range(20):
        try:
            jax.block_until_ready(call(x))
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # which of them depends on the version of JAX
            assert "braindnorm: out of memory" in str(error), error
        else:
            raise AssertionError(f"{size} bytes were not asked for")
    refuse(0)
    np.testing.assert_array_equal(call(x), wanted)


x = jnp.ones((BATCH, 32, CHANNELS)).at[0].set(2.0)
# the first task has its sums where the result goes
in_a_task, before_all_tasks = 8 * CHANNELS, 4 * 2 * CHANNELS * (BATCH - 1)
check(jax.jit(over_space), in_a_task, x)
pull = jax.jit(jax.vjp(over_space, x)[1])
check(lambda g: pull(g)[0], in_a_task, x)
check(lambda g: pull(g)[0], before_all_tasks, x)
print("it went on")
