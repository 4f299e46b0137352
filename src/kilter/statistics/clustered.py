"""Shares and means of bounded values, also where they come in clusters, such as verdicts on one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kilter.statistics.estimates import LEVEL, Array, Estimate, Sample, sample
from kilter.statistics.floors import BOUNDED, CLUSTERS, SHARE, UNBOUNDED
from kilter.statistics.shares import constant_bounds, share_bounds
from kilter.statistics.skewed import SKEWED, skewed_bounds

FEW = 10
"""Clusters with the rarer outcome, below which their variance says too little of how alike values are.

With none of them a cluster counts as one observation; each one more lets the variance say a tenth more.
"""


def proportion(
    events: Sequence[bool | None], clusters: Sequence[Any] | npt.ArrayLike | None = None, **extra: Any
) -> Estimate:
    """Share of events; None or NaN is unscored.

    Args:
        events: one per observation.
        clusters: which of them belong together; None: each stands for itself.
    """
    if clusters is not None:
        return clustered([math.nan if e is None else float(e) for e in events], clusters, **extra)
    known = [e for e in events if e is not None and math.isfinite(e)]
    lost = len(events) - len(known)
    if not known:
        return Estimate(None, 0, lost, method="Wilson", fewest=SHARE, **extra)
    low, high = share_bounds(sum(known), len(known))
    return Estimate(
        sum(known) / len(known), len(known), lost, len(known), low, high, "Wilson", fewest=SHARE, **extra
    )


def clustered(
    values: npt.ArrayLike | Sequence[float | None],
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    lowest: float = 0.0,
    highest: float = 1.0,
    **extra: Any,
) -> Estimate:
    """Mean of bounded values, with an interval that knows how alike the values of a cluster are.

    Values at the two ends alone are a share: `share_bounds` at the n at which a plain share would be as
    uncertain (Dean and Pagano 2015), with Student's t. Values of which most are the same, or which are few,
    get one imagined observation at each end (Bonett and Price 2012 do so with paired shares), then
    cluster-robust t. Any others need none (`skewed_bounds`), and between the two lies a mixture. An interval
    of mostly equal values is as wide as that of as many that are all the same: more of the same never widens
    it.

    Args:
        values: [n], None or NaN is unscored.
        clusters: [n], which values belong together; None: each stands for itself.
        lowest: that a value can be.
        highest: the same.
    """
    seen = sample(values, clusters)
    if seen.n == 0:
        return Estimate(None, 0, seen.unscored, method="nothing is scored", **extra)
    value = float(seen.values.mean())
    share = bool(np.isin(seen.values, (lowest, highest)).all())
    fewest = CLUSTERS if seen.clusters < seen.n else SHARE if share else BOUNDED
    extra |= {"fewest": fewest}
    facts = (value, seen.n, seen.unscored, seen.clusters)
    if np.ptp(seen.values) == 0:
        low, high = constant_bounds(value, lowest, highest, seen.clusters)
        return Estimate(*facts, low, high, "Wilson (constant)", **extra)
    if seen.clusters < 2:
        return Estimate(*facts, method="one cluster: no interval", **extra)

    worth = design_effect(seen, lowest, highest)
    if share:
        n, span = seen.n / worth, highest - lowest
        p = (value - lowest) / span
        degrees = None if seen.clusters == seen.n else seen.clusters - 1
        low, high = (lowest + span * b for b in share_bounds(p * n, n, degrees))
        method = "Wilson"
    else:
        low, high, method = _mean_bounds(seen, worth, lowest, highest)
    method += " over clusters" if seen.clusters < seen.n else ""
    return Estimate(*facts, low, high, method, **extra)


def _mean_bounds(seen: Sample, worth: float, lowest: float, highest: float) -> tuple[float, float, str]:
    """Bounds and method of a mean of values that are no share."""
    value = float(seen.values.mean())
    low, high = _with_ends(seen, worth, lowest, highest)
    least, most = constant_bounds(value, lowest, highest, seen.n / worth)
    ends = (min(low, least), max(high, most))
    left, right = skewed_bounds(seen.means())
    plain = (max(left, lowest), min(right, highest))

    # From one to the other by degrees: a value more must not change the method and take a pass back.
    trust = min(1.0, max(0.0, (_usual(seen.values) - MIXED[0]) / (MIXED[1] - MIXED[0])))
    low, high = (trust * a + (1 - trust) * b for a, b in zip(ends, plain, strict=True))
    if seen.clusters < UNBOUNDED:
        return min(ends[0], low), max(ends[1], high), IMAGINED
    return low, high, IMAGINED if trust == 1 else f"{SKEWED}, in part {IMAGINED}" if trust else SKEWED


IMAGINED = "Student's t with an imagined value at each end"
MIXED = (0.5, 0.65)
"""Share of the most common value up to which the values speak for themselves, and from which they do not."""


def _usual(values: Array) -> float:
    """Share of the most common value."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))


def mostly_one(values: Array) -> bool:
    """Whether more than half of them are the same: few then show how far others lie."""
    return _usual(values) > 0.5


def design_effect(seen: Sample, lowest: float, highest: float) -> float:
    """How many values are worth one independent one: 1 to the size of a cluster.

    It is the variance of cluster totals over that of single values, as far as there is enough to see it by.
    """
    if seen.clusters == seen.n:
        return 1.0
    away = seen.values - seen.values.mean()
    totals = np.bincount(seen.index, weights=away, minlength=seen.clusters)
    between = seen.clusters / (seen.clusters - 1) * float((totals**2).sum())
    found = between / float((away**2).sum())

    # How alike values are is only seen where they differ from the usual.
    middle = (lowest + highest) / 2
    rare = min(len(np.unique(seen.index[end])) for end in (seen.values < middle, seen.values > middle))
    alone = float((np.bincount(seen.index) ** 2).sum()) / seen.n
    belief = max(0.0, 1 - rare / FEW)
    return belief * alone + (1 - belief) * max(1.0, found)


def _with_ends(seen: Sample, worth: float, lowest: float, highest: float) -> tuple[float, float]:
    """Cluster-robust t of the values and one imagined independent observation at each end."""
    n = seen.n + 2 * worth
    middle = float(seen.values.sum() + worth * (lowest + highest)) / n
    totals = np.bincount(seen.index, weights=seen.values - middle, minlength=seen.clusters)
    squares = float((totals**2).sum())
    squares += float(((worth * (np.array([lowest, highest]) - middle)) ** 2).sum())
    groups = seen.clusters + 2
    deviation = (groups / (groups - 1) * squares) ** 0.5 / n
    half = float(stats.t.ppf((1 + LEVEL) / 2, seen.clusters - 1)) * deviation
    return max(lowest, middle - half), min(highest, middle + half)
