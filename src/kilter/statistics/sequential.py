"""Tests that may be read after every observation: a monitor that looks often must not cry wolf for that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kilter.statistics.estimates import LEVEL

CAUTION = 0.5
"""Largest share of the wealth that is bet on one observation."""


class Rise:
    """Bets that the mean of a stream has risen above a limit, at whatever time that was.

    Under the null every observation's mean, given the past, is at most `limit`. A bet's wealth is then a fair
    or losing game from 1. The stake is what past observations would have made best (Waudby-Smith and Ramdas
    2024). A bet that has seen a long good time is slow to believe in a bad one, so that a new bet is begun
    every few looks; the k-th has 6 / (pi k)^2 of the wealth. The sum reaches 1 / alpha with a chance of at
    most alpha, however long and often one looks (Ville 1939).

    Args:
        limit: between 0 and 1, as the observations are.
        every: looks after which another bet is begun.
    """

    def __init__(self, limit: float, every: int = 1) -> None:
        if not 0 < limit < 1:
            raise ValueError(f"the limit {limit} does not lie between 0 and 1")
        self.limit, self.every = limit, every
        self.looks, self.most = 0, 1.0
        self._wealth, self._sum, self._squares = np.zeros(0), np.zeros(0), np.zeros(0)

    def look(self, values: Iterable[float]) -> float:
        """Looks at more observations within 0..1. Returns the p-value so far, valid at any time."""
        if self.looks % self.every == 0:
            self._wealth = np.append(self._wealth, 6 / (math.pi * (len(self._wealth) + 1)) ** 2)
            self._sum, self._squares = np.append(self._sum, 0.0), np.append(self._squares, 0.0)
        self.looks += 1
        # What is kept for bets to come counts as it is.
        kept = 1 - sum(6 / (math.pi * k) ** 2 for k in range(1, len(self._wealth) + 1))

        # A stake that depends on the past alone keeps the game fair.
        most = CAUTION / self.limit
        for value in values:
            gain = min(max(value, 0.0), 1.0) - self.limit
            stake = np.clip(self._sum / (self._squares + 0.25), 0.0, most)
            self._wealth *= 1 + stake * gain
            self._sum, self._squares = self._sum + gain, self._squares + gain**2
            self.most = max(self.most, float(self._wealth.sum()) + kept)
        return self.p

    @property
    def p(self) -> float:
        """p-value at any time: one over the largest wealth so far."""
        return min(1.0, 1 / self.most)

    def state(self) -> dict[str, Any]:
        """All that has been seen, as plain numbers."""
        bets = [a.tolist() for a in (self._wealth, self._sum, self._squares)]
        return {"looks": self.looks, "most": self.most, "bets": bets}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.looks, self.most = state["looks"], state["most"]
        self._wealth, self._sum, self._squares = map(np.array, state["bets"])


def level_of_look(look: int, level: float = LEVEL) -> float:
    """Level of the interval at the look-th of any number of looks at the same data, 1 the first.

    The errors 1 - level of all looks sum to no more than that of one: 6 / (pi look)^2 of it each.
    """
    return 1 - (1 - level) * 6 / (math.pi * look) ** 2
