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


class Shift:
    """Bets that a stream no longer is what it was, whatever it was and whenever it changed.

    Under the null the values are exchangeable: each is as likely as any other to be the largest so far. Of N
    values that were seen, A lie above one of them; the next one lies above it with a chance of
    (A + 1) / (N + 1). A bet pays for values beyond the largest, or a high one, of those before the bet, and
    another one for values below (conformal test martingales, Vovk, Gammerman and Shafer 2005). Bets are begun
    anew every few looks, as those of `Rise`, and their sum reaches 1 / alpha with a chance of at most alpha.

    Args:
        quiet: values that are only remembered, at the beginning.
        every: looks after which other bets are begun.
    """

    def __init__(self, quiet: int, every: int = 1) -> None:
        self.quiet, self.every = max(1, quiet), every
        self.values: list[float] = []
        self.most = 1.0
        self._bets: list[list[float]] = []

    def look(self, value: float) -> float:
        """Looks at one more value. Returns the p-value so far, valid at any time."""
        seen = len(self.values)
        # Equal values are told apart by lot, the same lot in every run.
        lot = float(np.random.default_rng(seen).random())
        value = float(value) + lot * 1e-9 * (1 + abs(float(value)))
        if seen >= self.quiet and (seen - self.quiet) % self.every == 0:
            self._begin()
        for bet in self._bets:
            self._settle(bet, value, seen)
        self.values.append(value)
        begun = len(self._bets) // len(PLACES)
        kept = 1 - sum(6 / (math.pi * k) ** 2 for k in range(1, begun + 1))
        self.most = max(self.most, sum(bet[3] for bet in self._bets) + kept)
        return self.p

    def _begin(self) -> None:
        """Begins bets on values beyond what was seen: [sign, threshold, how many lie beyond, wealth]."""
        share = 6 / (math.pi * (len(self._bets) // len(PLACES) + 1)) ** 2 / len(PLACES)
        for sign, place in PLACES:
            ranked = sorted((sign * v for v in self.values), reverse=True)
            beyond = int(place * len(ranked))
            self._bets.append([sign, ranked[beyond], beyond, share])

    def _settle(self, bet: list[float], value: float, seen: int) -> None:
        sign, threshold, beyond, _ = bet
        chance, hit = (beyond + 1) / (seen + 1), sign * value > threshold
        if chance < SURE:
            bet[3] *= SURE / chance if hit else (1 - SURE) / (1 - chance)
        bet[2] += hit

    @property
    def p(self) -> float:
        """p-value at any time: one over the largest wealth so far."""
        return min(1.0, 1 / self.most)

    def state(self) -> dict[str, Any]:
        """All that has been seen, as plain numbers."""
        return {"values": self.values, "most": self.most, "bets": self._bets}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.values, self.most = list(state["values"]), state["most"]
        self._bets = [list(bet) for bet in state["bets"]]


PLACES = ((1.0, 0.0), (1.0, 0.2), (-1.0, 0.0), (-1.0, 0.2))
"""What is bet on: the direction, and the share of earlier values that lie beyond the threshold."""

SURE = 0.9
"""How often a value lies beyond the threshold, if the bet is right."""


def level_of_look(look: int, level: float = LEVEL) -> float:
    """Level of the interval at the look-th of any number of looks at the same data, 1 the first.

    The errors 1 - level of all looks sum to no more than that of one: 6 / (pi look)^2 of it each.
    """
    return 1 - (1 - level) * 6 / (math.pi * look) ** 2
