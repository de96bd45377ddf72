r"""The response of each element to its pool, with a derivative that keeps no array in memory but the drive.

.. math:: R = \gamma\, (D u)^n s, \quad
   \dot R = \gamma s\, n (D u)^{n-1} u \dot D + (D u)^n (\gamma \dot s + \dot\gamma s)

with a unit u, which is a constant, and a share s.
"""

import functools

import jax

from .barriers import fence
from .powers import scaled_power, signed_power

# the drive, the unit, the share and gamma
Quadruple = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def response_to_share(
    n: float, signed: bool, drive: jax.Array, unit: jax.Array, share: jax.Array, gamma: jax.Array
) -> jax.Array:
    """Return the response to a share, one over the divisor. The unit is a constant: any gives the same response.

    Only a drive that is `signed` may be negative.
    """
    y: jax.Array = _response(n, signed, drive, unit, share, gamma)
    return y


def _plainly(
    n: float, signed: bool, drive: jax.Array, unit: jax.Array, share: jax.Array, gamma: jax.Array
) -> jax.Array:
    raised = signed_power if signed else scaled_power
    return gamma * (raised(drive, unit, n) * share)


_response = jax.custom_jvp(_plainly, nondiff_argnums=(0, 1))


@_response.defjvp
def _jvp(n: float, signed: bool, primals: Quadruple, tangents: Quadruple) -> tuple[jax.Array, jax.Array]:
    return _plainly(n, signed, *primals), _tangent(n, signed, primals, tangents)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0, 1))
def _tangent(n: float, signed: bool, primals: Quadruple, tangents: Quadruple) -> jax.Array:
    drive, unit, share, gamma = primals
    # behind fences of their own, or XLA would keep the power of each element in memory for all that uses it
    once = fence((unit, share), size=drive.size)
    unit, share = fence(once, size=drive.size)
    own: jax.Array = jax.jvp(lambda d: _plainly(n, signed, d, *once, gamma), (drive,), tangents[:1])[1]
    other: jax.Array = jax.jvp(lambda s, g: _plainly(n, signed, drive, unit, s, g), (share, gamma), tangents[2:])[1]
    return own + other
