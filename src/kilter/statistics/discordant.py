"""The difference of two shares of the same prompts, by Tango's score interval (1998)."""

from __future__ import annotations

import math

from scipy import optimize, stats

from kilter.statistics.estimates import LEVEL
from kilter.statistics.shares import one_sided_bounds

QUANTILE = float(stats.norm.ppf((1 + LEVEL) / 2))
SCORE = "Tango's score"
EDGE = 1e-12


def discordant_bounds(gains: int, losses: int, n: int) -> tuple[float, float]:
    """Bounds of (gains - losses) / n: Tango's, as wide as the exact bounds of gains or losses alone ask for.

    The score test knows how uncertain a difference is under the share that it tests, so that few discordant
    prompts suffice. Near an end it errs as Wilson's interval does, and the exact bounds make it safe: each
    bound lies beyond the truth in at most 5 %.

    Args:
        gains: prompts that the candidate alone decides right.
        losses: prompts that the baseline alone decides right.
        n: all prompts.
    """
    low, high = -_upper(losses, gains, n), _upper(gains, losses, n)
    spread = [*_moved(gains, losses, n), *(-bound for bound in _moved(losses, gains, n))]
    return min(low, *spread), max(high, *spread)


def _upper(gains: int, losses: int, n: int) -> float:
    """The largest difference that the score test does not reject."""
    if gains == n:
        return 1.0
    seen = (gains - losses) / n
    return float(optimize.brentq(lambda d: _score(d, gains, losses, n), seen + EDGE, 1 - EDGE))


def _score(difference: float, gains: int, losses: int, n: int) -> float:
    """Above 0 where the score test does not reject the difference, by what it lacks."""
    # The likeliest share of losses if this were the difference solves a quadratic equation.
    b = (2 * n - gains + losses) * difference - gains - losses
    c = -losses * difference * (1 - difference)
    likely = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * likely + difference * (1 - difference))
    return gains - losses - n * difference + QUANTILE * math.sqrt(max(0.0, variance))


def _moved(gains: int, losses: int, n: int) -> tuple[float, ...]:
    """The difference at the exact bounds of the share of gains, all else in its proportions."""
    others = losses / (n - gains) if n > gains else 0.0
    return tuple(share - (1 - share) * others for share in one_sided_bounds(gains, n))
