"""Means: of values with known ends, of any other, and by resampling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kilter.statistics.clustered import clustered, mostly_one
from kilter.statistics.estimates import LEVEL, RESAMPLES, Array, Estimate, Sample, Values, sample
from kilter.statistics.floors import UNBOUNDED
from kilter.statistics.skewed import SKEWED, skewed_bounds

SPARSE = 10
"""Values that differ from the most common one, below which they do not show how far others may lie."""

Ends = tuple[float, float]


def mean(
    values: Values,
    seed: int = 0,
    binary: bool = False,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    ends: Ends | None = None,
    **extra: Any,
) -> Estimate:
    """Mean with an interval that knows clusters, skewness and, where there are any, the ends of the scale.

    Values with ends: see `clustered`. Values within 0..1 have those ends. Any other get Student's t, made
    longer on the side of their tail by Hall's transformation (1992), from UNBOUNDED observations on. Where
    all but a few are the same, what was not seen is taken to lie no further away than the largest value.

    Args:
        values: [n], one per observation; None or NaN is unscored.
        seed: noted in the estimate; nothing is drawn.
        binary: outcomes within 0..1, such as wins.
        clusters: [n], which values belong together; None: each stands for itself.
        ends: lowest and highest that a value can be; None: unknown.
    """
    seen = sample(values, clusters)
    extra |= {"seed": seed}
    if seen.n == 0:
        return Estimate(None, 0, seen.unscored, method="nothing is scored", **extra)
    if ends is None:
        ends = (0.0, 1.0) if binary else inferred(seen.values)
    if ends is not None:
        return clustered(values, clusters, *ends, **extra)
    return unbounded(values, clusters, **extra)


def unbounded(
    values: Values, clusters: Sequence[Any] | npt.ArrayLike | None = None, **extra: Any
) -> Estimate:
    """Mean of values that can be anything; see `mean`."""
    seen = sample(values, clusters)
    if seen.n == 0:
        return Estimate(None, 0, seen.unscored, method="nothing is scored", **extra)
    together = seen.clusters < seen.n
    facts = (float(seen.values.mean()), seen.n, seen.unscored, seen.clusters)
    extra |= {"fewest": UNBOUNDED}
    if seen.clusters < UNBOUNDED:
        what = "clusters" if together else "values"
        return Estimate(*facts, method=f"{seen.clusters} {what} are below {UNBOUNDED}: no interval", **extra)
    if (reach := _reach(seen.values)) is not None:
        return _sparse(seen, values, clusters, reach, **extra)
    low, high = skewed_bounds(seen.means())
    method = SKEWED + (" over clusters" if together else "")
    return Estimate(*facts, low, high, method, **extra)


def inferred(values: Array) -> Ends | None:
    """0..1 where all values lie there: then an unseen one is taken to do so too."""
    return (0.0, 1.0) if len(values) and values.min() >= 0 and values.max() <= 1 else None


def _reach(values: Array) -> Ends | None:
    """The most common value and how far unseen ones may lie from it, if few differ from it."""
    kinds, often = np.unique(values, return_counts=True)
    usual = float(kinds[often.argmax()])
    if not mostly_one(values) or len(values) - often.max() >= SPARSE:
        return None
    return usual, max(1.0, float(np.abs(values).max()), float(np.abs(values - usual).max()))


def _sparse(
    seen: Sample,
    values: Values,
    clusters: Sequence[Any] | npt.ArrayLike | None,
    reach: Ends,
    **extra: Any,
) -> Estimate:
    """As if the scale ended where the furthest value lies, on either side of the usual one."""
    usual, far = reach
    found = clustered(values, clusters, usual - far, usual + far, **extra)
    note = f"{found.method}; values that were not seen lie within {far:.3g} of {usual:.3g}"
    low, high = skewed_bounds(seen.means())
    assert found.ci_low is not None
    assert found.ci_high is not None
    return replace(
        found,
        ci_low=min(low, found.ci_low),
        ci_high=max(high, found.ci_high),
        method=note,
        fewest=UNBOUNDED,
    )


def bca_bootstrap(
    values: Values,
    statistic: Callable[..., Any] = np.mean,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    seed: int = 0,
    **extra: Any,
) -> Estimate:
    """Any statistic with a BCa bootstrap interval over observations or whole clusters (Efron 1987).

    For statistics without a formula, such as a median: a mean has better intervals in `mean`.

    Args:
        values: [n], None or NaN is unscored.
        statistic: of an array; with clusters it sees the clusters' linearised means.
        clusters: [n], what is drawn together; None: each by itself.
        seed: of the draws.
    """
    seen = sample(values, clusters)
    extra |= {"seed": seed, "fewest": UNBOUNDED}
    if seen.n == 0:
        return Estimate(None, 0, seen.unscored, method="nothing is scored", **extra)
    drawn = seen.means() if seen.clusters < seen.n else seen.values
    facts = (float(statistic(drawn)), seen.n, seen.unscored, seen.clusters)
    if len(drawn) < UNBOUNDED or np.ptp(drawn) == 0:
        return Estimate(*facts, method="too few different values for a bootstrap: no interval", **extra)
    rng = np.random.default_rng(seed)
    # scipy warns of samples in which most draws are the same; the percentiles stand in for them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for way in ("BCa", "percentile"):
            found = stats.bootstrap(
                (drawn,), statistic, n_resamples=RESAMPLES, confidence_level=LEVEL, method=way, rng=rng
            ).confidence_interval
            if math.isfinite(found.low) and math.isfinite(found.high):
                return Estimate(*facts, float(found.low), float(found.high), f"{way} bootstrap", **extra)
    return Estimate(*facts, method="the bootstrap has no interval", **extra)
