"""Tests that may be read after every observation: a monitor that looks often must not cry wolf for that."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kilter.statistics.estimates import LEVEL

CAUTION = 0.5
"""Largest share of the wealth that is bet on one observation."""


class Bet:
    """Bets that the mean of a stream lies below a limit; the more it wins, the surer that is.

    Under the null every observation's mean, given the past, is at least `limit`. The wealth is then a fair or
    losing game from 1: it reaches 1 / alpha with a chance of at most alpha, however long and often one looks
    (Ville 1939). The stake is what past observations would have made best (Waudby-Smith and Ramdas 2024).

    Args:
        limit: between lowest and highest.
        lowest: that an observation can be.
        highest: the same.
    """

    def __init__(self, limit: float, lowest: float = 0.0, highest: float = 1.0) -> None:
        if not lowest < limit < highest:
            raise ValueError(f"the limit {limit} does not lie between {lowest} and {highest}")
        self.limit, self.lowest, self.highest = limit, lowest, highest
        self.wealth, self.most, self.n = 1.0, 1.0, 0
        self._sum, self._squares = 0.0, 0.0

    def add(self, values: Iterable[float | None]) -> float:
        """Looks at more observations; None is unscored. Returns the p-value so far, valid at any time."""
        span = self.highest - self.lowest
        for value in values:
            if value is None or not math.isfinite(value):
                continue
            # A stake that depends on the past alone keeps the game fair.
            gain = (self.limit - min(max(value, self.lowest), self.highest)) / span
            mean = self._sum / (self.n + 1)
            variance = (self._squares + 0.25) / (self.n + 1)
            most = CAUTION * span / (self.highest - self.limit)
            self.wealth *= 1 + min(max(mean / variance, 0.0), most) * gain
            self.n, self._sum, self._squares = self.n + 1, self._sum + gain, self._squares + gain**2
            self.most = max(self.most, self.wealth)
        return self.p

    @property
    def p(self) -> float:
        """p-value at any time: one over the largest wealth so far."""
        return min(1.0, 1 / self.most)

    @property
    def sure(self) -> bool:
        """Whether the mean is shown to lie below the limit."""
        return self.p <= 1 - LEVEL


def level_of_look(look: int, level: float = LEVEL) -> float:
    """Level of the interval at the look-th of any number of looks at the same data, 1 the first.

    The errors 1 - level of all looks sum to no more than that of one: 6 / (pi look)^2 of it each.
    """
    return 1 - (1 - level) * 6 / (math.pi * look) ** 2
