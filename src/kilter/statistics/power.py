"""How many observations a claim needs, before anything is generated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from scipy import stats

from kilter.statistics.shares import constant_bounds, share_bounds

MOST = 10_000_000
TARGET = 0.8
"""Chance of a pass that a sample size is planned for."""


def n_to_certify(limit: float, events: int = 0) -> int:
    """Smallest n at which that many events, or none, put the upper bound of their share below `limit`."""
    return _least(lambda n: n > events and share_bounds(events, n)[1] < limit)


def n_to_show_no_change(margin: float, span: float = 1.0) -> int:
    """Smallest n at which models that never differ are shown to differ by less than `margin`.

    Args:
        margin: largest difference that is let pass, in the metric's unit.
        span: from the lowest to the highest value.
    """
    return _least(lambda n: constant_bounds(0.0, -span, span, n)[1] < margin)


@functools.lru_cache(maxsize=256)
def chance_to_certify(limit: float, rate: float, n: int) -> float:
    """Chance that n observations of events at this rate put the upper bound of their share below `limit`."""
    worst = -1
    while worst < n and share_bounds(worst + 1, n)[1] < limit:
        worst += 1
    return float(stats.binom.cdf(worst, n, rate)) if worst >= 0 else 0.0


def n_for_rate(limit: float, rate: float, power: float = TARGET) -> int:
    """n at which a model with this rate is certified to stay below `limit` with that chance."""
    if rate >= limit:
        return MOST
    return _least(lambda n: chance_to_certify(limit, rate, n) >= power)


def n_for_difference(difference: float, deviation: float, power: float = TARGET) -> int:
    """n at which a mean paired difference is shown to be above 0 with that chance.

    Args:
        difference: what is expected; above a margin, what lies between.
        deviation: standard deviation of the difference over prompts. Of 0/1 values that differ on a share
            q of the prompts it is about sqrt(q).
    """
    if difference <= 0:
        return MOST
    z = float(stats.norm.ppf(0.975) + stats.norm.ppf(power))
    return math.ceil((z * deviation / difference) ** 2) + 2


def _least(holds: Callable[[int], bool]) -> int:
    """The smallest n for which something holds that once true stays so, by bisection."""
    high = 1
    while not holds(high):
        high *= 2
        if high > MOST:
            return MOST
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
