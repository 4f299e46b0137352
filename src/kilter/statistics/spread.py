"""How far values lie apart, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.statistics.estimates import LEVEL, RESAMPLES, Estimate, Values, sample
from kilter.statistics.floors import UNBOUNDED

FEWEST = 8
"""Clusters below which a bootstrap of a deviation says too little."""


def deviation(
    values: Values, seed: int = 0, clusters: Sequence[Any] | npt.ArrayLike | None = None, **extra: Any
) -> Estimate:
    """Sample standard deviation with a bootstrap interval over clusters; None is unscored.

    Too few values, or values that are all the same, have no interval.

    Args:
        values: [n], None or NaN is unscored.
        seed: of the draws.
        clusters: [n], which values belong together; None: each stands for itself.
    """
    seen = sample(values, clusters)
    extra |= {"seed": seed, "fewest": UNBOUNDED}
    facts = (seen.n, seen.unscored, seen.clusters)
    if seen.n < 2:
        return Estimate(None, *facts, method="n too small for a deviation", **extra)
    value = float(seen.values.std(ddof=1))
    if seen.clusters < FEWEST or np.ptp(seen.values) == 0:
        return Estimate(value, *facts, method="no interval", **extra)

    # A draw of clusters is a weighted sum of their counts, sums and squares.
    away = seen.values - seen.values.mean()
    parts = np.stack([np.bincount(seen.index, weights=w) for w in (np.ones(seen.n), away, away**2)], axis=1)
    often = np.random.default_rng(seed).multinomial(
        seen.clusters, np.full(seen.clusters, 1 / seen.clusters), size=RESAMPLES
    )
    n, total, squares = (often @ parts).T
    drawn = np.sqrt(np.maximum(0.0, squares - total**2 / n) / np.maximum(1, n - 1))
    # On the scale of logarithms, what the draws lack or have too much is turned round.
    logs = np.log(drawn[drawn > 0] / value)
    low, high = value * np.exp(-np.percentile(logs, [50 * (1 + LEVEL), 50 * (1 - LEVEL)]))
    return Estimate(value, *facts, float(low), float(high), "bootstrap of a deviation", **extra)
