"""Student's t interval of a mean, corrected for the skewness of its values."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from kilter.statistics.estimates import LEVEL, Array

SKEWED = "Student's t with Hall's skewness"
STRETCH = 1.15
"""Of the skewness: that of a sample is less than that of what it was drawn from."""


def skewed_bounds(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval, corrected for the skewness of the values (Hall 1992).

    The side of the long tail is Hall's. The other one is half way between his and Student's, for the skewness
    of a symmetric sample is chance.
    """
    n, value = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(n)
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))
    if error == 0:
        return value, value
    # Of values that differ by rounding alone, skewness is noise.
    if np.ptp(values) <= 1e-9 * float(np.abs(values).max()):
        return value - quantile * error, value + quantile * error
    skewness = STRETCH * float(stats.skew(values, bias=False))
    low, high = (_hall(sign * quantile, skewness, n) for sign in (1, -1))
    plain = (quantile, -quantile)
    shorter, longer = (0, 1) if skewness > 0 else (1, 0)
    t = [low, high]
    t[shorter] = (t[shorter] + plain[shorter]) / 2
    t[longer] = max(t[longer], plain[longer], key=abs)
    return value - error * t[0], value - error * t[1]


def _hall(y: float, skewness: float, n: int) -> float:
    """The t value whose transformation by skewness is y."""
    a = skewness / math.sqrt(n)
    if abs(a) < 1e-6:
        return y
    return 3 / a * (float(np.cbrt(1 + a * (y - a / 6))) - 1)
