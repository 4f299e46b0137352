"""Bounds of a share: Wilson's, made safe by exact one-sided ones; the rules for none and for all."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from kilter.statistics.estimates import LEVEL

TAIL = (1 - LEVEL) / 2


def wilson_bounds(events: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson interval of events out of n.

    It is exactly 0 below no events and 1 above all, where rounding would leave a trace.
    """
    low, high = _interval(events, n, level, "wilson")
    return (0.0 if events == 0 else float(low)), (1.0 if events == n else float(high))


def clopper_pearson(events: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of events out of n. It covers too often, and never too seldom."""
    low, high = _interval(events, n, level, "beta")
    return (0.0 if events == 0 else float(low)), (1.0 if events == n else float(high))


def _interval(events: int, n: int, level: float, method: str) -> tuple[float, float]:
    # It brings pandas with it, which most trainings never need.
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(events, n, 1 - level, method=method)
    return low, high


def rule_of_three(n: int, level: float = LEVEL) -> float:
    """Upper bound of a share of which n observations show none: 1 - (1 - level)^(1/n), about 3 / n."""
    return float(1 - (1 - level) ** (1 / n))


def one_sided_bounds(events: float, n: float) -> tuple[float, float]:
    """The exact bounds of which each lies beyond the truth in at most 5 %. Neither argument need be whole.

    A gate reads one of them. Wilson's lower bound of one event in many is wrong in up to 16 %.
    """
    low = 0.0 if events <= 0 else float(special.betaincinv(events, n - events + 1, 1 - LEVEL))
    high = 1.0 if events >= n else float(special.betaincinv(events + 1, n - events, LEVEL))
    return low, high


def share_bounds(events: float, n: float, degrees: float | None = None) -> tuple[float, float]:
    """Wilson's interval, as wide as `one_sided_bounds`. Neither events nor n need be whole.

    Args:
        events: seen, 0 to n.
        n: observations, or as many independent ones as clustered ones are worth.
        degrees: of freedom, with which the variance was estimated; None: it follows from the share.
    """
    quantile = stats.norm.ppf(1 - TAIL) if degrees is None else stats.t.ppf(1 - TAIL, degrees)
    t2, p = float(quantile) ** 2, events / n
    middle = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2) * math.sqrt(p * (1 - p) / n + t2 / (4 * n * n)) / (1 + t2 / n)
    low, high = one_sided_bounds(events, n)
    lowest = 0.0 if events <= 0 else max(0.0, min(middle - half, low))
    return lowest, 1.0 if events >= n else min(1.0, max(middle + half, high))


def constant_bounds(value: float, lowest: float, highest: float, n: float) -> tuple[float, float]:
    """Bounds of a mean of which all n observations are the same.

    Args:
        value: of each observation.
        lowest: that an observation can have.
        highest: the same.
        n: independent observations.

    Returns:
        The mean if the share of other observations is Wilson's bound of 0 in n, and all lie at one end.
    """
    other = share_bounds(0, n)[1]
    return value - other * (value - lowest), value + other * (highest - value)


def sign_test(differences: npt.ArrayLike) -> float:
    """Exact two-sided p-value that gains and losses are equally likely. Ties say nothing and are left out."""
    known = np.asarray(differences, dtype=float)
    up, down = int((known > 0).sum()), int((known < 0).sum())
    return 1.0 if up + down == 0 else float(stats.binomtest(up, up + down).pvalue)
