r"""The fast rule with statistics that carry no gradient: the values of the other, the derivative of each element alone.

.. math:: \dot y = \gamma r \dot x + z\,(\dot\gamma - \tfrac12 \gamma r^2 \dot\varepsilon) + \dot\beta

which is what is left of the tangent in :mod:`.fused` when the mean and the variance are constants.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from ..units import Mantissa
from .fused import Plan, Primals, value
from .moments import local_count
from .shapes import Mask, Parameter, Statistic, Values
from .statistics import Count, statistics_with_variance, sum_of_parts

Rule = Callable[..., Any]


@functools.cache
def elementwise(rule: Rule, *, moments: bool = False) -> Rule:
    """Return a rule with the same values (by a kernel, too), whose statistics are constants to every derivative.

    With `moments` it returns those too.
    """
    norm = jax.custom_jvp(rule, nondiff_argnums=(0,))

    def jvp(plan: Plan, primals: Primals, tangents: Sequence[object]) -> tuple[object, object]:
        moving = [i for i, t in enumerate(tangents) if i != _VALID and not isinstance(t, SymbolicZero | None)]

        def of_some(*some: jax.Array) -> object:
            arguments: list[Any] = list(primals)
            for i, v in zip(moving, some, strict=True):
                arguments[i] = v
            outputs = _by_constants(plan.with_derivatives(), *arguments)
            return outputs if moments else outputs[0]

        return jax.jvp(of_some, [primals[i] for i in moving], [tangents[i] for i in moving])

    norm.defjvp(jvp, symbolic_zeros=True)
    return norm


_VALID = 1  # the place of the mask among the arguments


def _by_constants(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> tuple[Values, Count, Statistic | None, Statistic]:
    """Return y, the count, the mean and the variance, by statistics of an `x` that is held."""
    centre, r, var = statistics_with_variance(plan, jax.lax.stop_gradient(x), valid, epsilon)
    count = local_count(x.shape, valid, plan.reduction, plan.dtype)
    return value(plan, x, valid, scale, bias, centre, r), count, sum_of_parts(centre) if centre else None, var
