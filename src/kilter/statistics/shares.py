"""Bounds of a share: Wilson's, made safe by the exact mid-P ones; the rules for none and for all."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from kilter.statistics.estimates import LEVEL

TAIL = (1 - LEVEL) / 2


def wilson_bounds(events: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson interval of events out of n.

    It is exactly 0 below no events and 1 above all, where rounding would leave a trace.
    """
    low, high = proportion_confint(events, n, 1 - level, method="wilson")
    return (0.0 if events == 0 else float(low)), (1.0 if events == n else float(high))


def clopper_pearson(events: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of events out of n. It covers too often, and never too seldom."""
    low, high = proportion_confint(events, n, 1 - level, method="beta")
    return (0.0 if events == 0 else float(low)), (1.0 if events == n else float(high))


def rule_of_three(n: int, level: float = LEVEL) -> float:
    """Upper bound of a share of which n observations show none: 1 - (1 - level)^(1/n), about 3 / n."""
    return float(1 - (1 - level) ** (1 / n))


@functools.lru_cache(maxsize=4096)
def midp_bounds(events: float, n: float) -> tuple[float, float]:
    """The exact interval that counts half of what was seen as more extreme. Neither need be whole.

    Each tail is at most twice its nominal 2.5 %, whatever the share is: a gate that reads one bound passes
    wrongly in at most 5 %. Wilson's lower bound of one event in many does so in 16 %.
    """
    low = 0.0 if events <= 0 else _root(lambda p: 1 - _below(events, n, p))
    high = 1.0 if events >= n else _root(lambda p: -_below(events, n, p), -TAIL)
    return low, high


def _root(tail: Any, value: float = TAIL) -> float:
    """Where a tail that grows with p reaches its nominal share."""
    return float(optimize.brentq(lambda p: tail(p) - value, 1e-15, 1 - 1e-15, xtol=1e-13))


def _below(events: float, n: float, p: float) -> float:
    """P(fewer) + P(as many) / 2 of a binomial, by beta functions."""
    fewer = 1.0 - special.betainc(events, n - events + 1, p) if events > 0 else 0.0
    up_to = 1.0 - special.betainc(events + 1, n - events, p) if events < n else 1.0
    half: float = float(fewer + up_to) / 2
    return half


def share_bounds(events: float, n: float, degrees: float | None = None) -> tuple[float, float]:
    """Wilson's interval, as wide as the mid-P one on either side. Neither events nor n need be whole.

    Args:
        events: seen, 0 to n.
        n: observations, or as many independent ones as clustered ones are worth.
        degrees: of freedom, with which the variance was estimated; None: it follows from the share.
    """
    quantile = stats.norm.ppf(1 - TAIL) if degrees is None else stats.t.ppf(1 - TAIL, degrees)
    t2, p = float(quantile) ** 2, events / n
    middle = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2) * math.sqrt(p * (1 - p) / n + t2 / (4 * n * n)) / (1 + t2 / n)
    low, high = midp_bounds(events, n)
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
