"""How far values lie apart, with an interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from kilter.statistics.estimates import LEVEL, RESAMPLES, Estimate

FEWEST = 8
"""Values below which a bootstrap of a deviation says too little."""


def deviation(values: Sequence[float | None], seed: int = 0, **extra: Any) -> Estimate:
    """Sample standard deviation with a BCa bootstrap interval; None is unscored.

    Too few values, or values that are all the same, have no interval.
    """
    known = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    n, unscored, method = len(known), len(values) - len(known), "BCa bootstrap of a deviation"
    if n < 2:
        return Estimate(None, n, unscored, n, method="n too small for a deviation", seed=seed, **extra)
    value = float(known.std(ddof=1))
    if n < FEWEST or np.ptp(known) == 0:
        return Estimate(value, n, unscored, n, method="no interval", seed=seed, **extra)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns on near-degenerate samples, whose bounds are not finite
        found = stats.bootstrap(
            (known,),
            lambda x, axis: np.std(x, ddof=1, axis=axis),
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = (float(b) if math.isfinite(b) else None for b in found)
    return Estimate(value, n, unscored, n, low, high, method, seed, **extra)
