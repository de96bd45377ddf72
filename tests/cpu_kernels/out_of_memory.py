"""A norm whose kernels cannot have the memory for their sums: each call raises, and later ones are right."""

import resource

import jax
import jax.numpy as jnp
import numpy as np

from braindnorm import cpu_kernels, functional
from braindnorm.cpu_kernels import _view

_view.FEW = 1
assert cpu_kernels.enable()


def over_space(x: jax.Array) -> jax.Array:
    return functional.group_norm(x, num_groups=4, reduction_axes=(1,))


def size() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limited(call: jax.stages.Compiled, *args: jax.Array) -> None:
    """Leave enough for the arrays, and not for the sums of one task."""
    enough = np.asarray(call(*args))
    arrays = call.memory_analysis()
    spare = arrays.temp_size_in_bytes + arrays.output_size_in_bytes + (32 << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size() + spare, before[1]))
    try:
        jax.block_until_ready(call(*args))
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # which of them depends on the version of JAX
        assert "braindnorm: out of memory" in str(error), error
    else:
        raise AssertionError("there was memory enough")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    np.testing.assert_array_equal(call(*args), enough)


# two tasks, each with sums of 44 bytes (backward: 56) a channel, 92 MB
x = jnp.ones((2, 2, 1 << 21)).at[0].set(2.0)
limited(jax.jit(over_space).lower(x).compile(), x)
pull = jax.vjp(over_space, x)[1]
limited(jax.jit(lambda g: pull(g)[0]).lower(x).compile(), x)
print("it went on")
