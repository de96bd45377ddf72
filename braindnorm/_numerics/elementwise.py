r"""The fast rule with statistics that carry no gradient: the values of the other, the derivative of each element alone.

.. math:: \dot y = \gamma r \dot x + z\,(\dot\gamma - \tfrac12 \gamma r^2 \dot\varepsilon) + \dot\beta

which is what is left of the tangent in :mod:`.fused` when the mean and the variance are constants.
"""

import jax

from ..units import Mantissa
from .fused import Plan, value
from .moments import local_count
from .shapes import Mask, Parameter, Statistic, Values
from .statistics import Count, statistics_with_variance, sum_of_parts


def elementwise_norm(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> Values:
    """Return y by statistics that are constants to every derivative."""
    return elementwise_norm_with_moments(plan, x, valid, epsilon, scale, bias)[0]


def elementwise_norm_with_moments(
    plan: Plan, x: Values, valid: Mask, epsilon: Mantissa, scale: Parameter, bias: Parameter
) -> tuple[Values, Count, Statistic | None, Statistic]:
    """Return the same, and the count, the mean and the variance."""
    plan = plan.with_derivatives()
    centre, r, var = statistics_with_variance(plan, jax.lax.stop_gradient(x), valid, epsilon)
    count = local_count(x.shape, valid, plan.reduction, plan.dtype)
    return value(plan, x, valid, scale, bias, centre, r), count, sum_of_parts(centre) if centre else None, var
