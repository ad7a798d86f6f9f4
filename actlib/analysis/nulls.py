"""What concentration chance alone gives: the half-normal, as differences without a preference have.

half_normal_share(0.05)    # 0.1465: what the top 5 % of the channels hold of the sum
"""

import numpy as np
from jaxtyping import Float
from scipy import stats


def half_normal_share(fraction: float) -> float:
    """Share of the sum that the top `fraction` of a half-normal population holds, exactly.

    The half-normal is |d| for Gaussian d of one variance: what a difference that prefers no channel
    looks like. With q its upper quantile, the share is E[X; X > q] / E[X] = exp(-q^2 / 2).
    It is the generous null: when d also varies between tokens, their mean |d| is more even still.

    >>> round(half_normal_share(0.05), 4)
    0.1465
    """
    return float(np.exp(-(stats.halfnorm.isf(fraction) ** 2) / 2))


def half_normal_ccdf(
    values_over_mean: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """P(X > x) of a half-normal X of mean one."""
    return stats.halfnorm.sf(np.asarray(values_over_mean) * (2 / np.pi) ** 0.5)
