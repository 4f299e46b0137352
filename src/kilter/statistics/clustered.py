"""Means of values that come in clusters, such as several verdicts on one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kilter.statistics.estimates import LEVEL, Estimate, constant_bounds

FEW = 10
"""Clusters with the rarer outcome, below which their variance says too little of how alike values are.

Each cluster then counts as one observation: simulated at 3 % of 100 clusters of 4, bounds cover .95, not .89.
"""


def clustered(
    values: npt.ArrayLike,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    lowest: float = 0.0,
    highest: float = 1.0,
    **extra: Any,
) -> Estimate:
    """Mean of bounded values with Wilson's interval at the effective number of clusters.

    The variance is that of cluster totals, with C / (C - 1). It gives the n at which a plain share would be
    as uncertain, and Wilson's formula with Student's t takes that n (Dean and Pagano 2015).
    Values that are all the same get the bounds of `constant_bounds`, never an interval of no width.

    Args:
        values: [n], NaN is unscored.
        clusters: [n], which values belong together; None: each stands for itself.
        lowest: that a value can be.
        highest: the same.
    """
    given = np.asarray(values, dtype=float).ravel()
    known = np.isfinite(given)
    x, unscored = given[known], int((~known).sum())
    if len(x) == 0:
        return Estimate(None, 0, unscored, method="nothing is scored", **extra)

    # Clusters without any scored value say nothing, and are not counted.
    names = np.arange(len(given)) if clusters is None else np.asarray(clusters).ravel()
    _, index = np.unique(names[known], return_inverse=True)
    count = int(index.max()) + 1
    value = float(x.mean())
    if np.ptp(x) == 0:
        low, high = constant_bounds(value, lowest, highest, count)
        return Estimate(value, len(x), unscored, count, low, high, "Wilson (constant)", **extra)
    if count < 2:
        return Estimate(value, len(x), unscored, count, method="one cluster: no interval", **extra)

    # On the scale 0..1 a share of this mean would have the variance p (1 - p) / n: that gives n.
    span = highest - lowest
    p = (value - lowest) / span
    totals = np.bincount(index, weights=x - value, minlength=count)
    variance = count / (count - 1) * float((totals**2).sum()) / len(x) ** 2 / span**2
    if variance == 0 or not 0 < p < 1:
        low, high = constant_bounds(value, lowest, highest, count)
    else:
        n = p * (1 - p) / variance
        if _fewest(x, index, lowest, highest) < FEW:
            n = min(n, count)
        low, high = (lowest + span * b for b in _wilson(p, n, count - 1))
    return Estimate(value, len(x), unscored, count, low, high, "Wilson over clusters", **extra)


def _fewest(x: npt.NDArray[np.float64], index: npt.NDArray[np.intp], lowest: float, highest: float) -> int:
    """How many clusters have a value at the one end of the scale or at the other, whichever are fewer."""
    ends = (x < (lowest + highest) / 2, x > (lowest + highest) / 2)
    return min(len(np.unique(index[end])) for end in ends)


def _wilson(p: float, n: float, degrees: int) -> tuple[float, float]:
    """Wilson's interval of a share with the quantile of Student's t. n need not be whole."""
    t2 = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) ** 2
    middle = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2) * math.sqrt(p * (1 - p) / n + t2 / (4 * n * n)) / (1 + t2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
