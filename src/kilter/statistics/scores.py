"""How well scores order and how well probabilities are meant: rank correlation, AUC, ECE, Brier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kilter.statistics.clustered import clustered
from kilter.statistics.estimates import LEVEL, Array, Estimate
from kilter.statistics.floors import BOUNDED, UNBOUNDED

BINS = 15
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
DRAWS = 1000


def spearman(first: npt.ArrayLike, second: npt.ArrayLike, **extra: Any) -> Estimate:
    """Rank correlation with Bonett and Wright's interval (2000), on Fisher's z scale.

    Args:
        first: [n], NaN is unscored.
        second: [n].
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    n, lost = int(known.sum()), int((~known).sum())
    extra |= {"fewest": UNBOUNDED}
    if n < 2 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return Estimate(None, n, lost, n, method="Spearman: one side is constant, undefined", **extra)
    value = float(stats.spearmanr(a[known], b[known]).statistic)
    if n < UNBOUNDED:
        return Estimate(value, n, lost, n, method=f"Spearman: {n} pairs are too few", **extra)
    # Perfect order has no finite z: half a rank short of it has.
    kept = math.copysign(min(abs(value), 1 - 1 / n**2), value)
    half = Z * math.sqrt((1 + kept**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(kept) - half), math.tanh(math.atanh(kept) + half)
    low, high = min(low, value), max(high, value)
    return Estimate(value, n, lost, n, low, high, "Spearman, Bonett-Wright", **extra)


def auc(scores: npt.ArrayLike, events: Sequence[bool] | npt.ArrayLike, **extra: Any) -> Estimate:
    """P(an event scores higher than another case), ties half, with the interval of Hanley and McNeil (1982).

    The bounds are taken on the logit scale with half a case at either end, so that a perfect order has some.

    Args:
        scores: [n], NaN is unscored.
        events: [n] whether each is an event.
    """
    from sklearn.metrics import roc_auc_score

    s, y = np.asarray(scores, dtype=float), np.asarray(events, dtype=bool)
    known = np.isfinite(s)
    s, y, n, lost = s[known], y[known], int(known.sum()), int((~known).sum())
    ups, downs = int(y.sum()), int((~y).sum())
    extra |= {"fewest": UNBOUNDED}
    if not ups or not downs:
        return Estimate(None, n, lost, n, method="AUC: one kind of case alone, undefined", **extra)
    value = float(roc_auc_score(y, s))
    kept = min(max(value, 1 / (4 * ups * downs)), 1 - 1 / (4 * ups * downs))
    kept = (kept * min(ups, downs) + 0.5) / (min(ups, downs) + 1)
    q1, q2 = kept / (2 - kept), 2 * kept**2 / (1 + kept)
    spread = kept * (1 - kept) + (ups - 1) * (q1 - kept**2) + (downs - 1) * (q2 - kept**2)
    half = Z * math.sqrt(spread / (ups * downs)) / (kept * (1 - kept))
    middle = math.log(kept / (1 - kept))
    low, high = (1 / (1 + math.exp(-v)) for v in (middle - half, middle + half))
    return Estimate(
        value, n, lost, n, min(low, value), max(high, value), "AUC, Hanley-McNeil on the logit", **extra
    )


def brier(
    probabilities: npt.ArrayLike,
    events: Sequence[bool] | npt.ArrayLike,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    **extra: Any,
) -> Estimate:
    """Mean squared error of probabilities; 0 is perfect, 0.25 is a coin that says so."""
    p, y = np.asarray(probabilities, dtype=float), np.asarray(events, dtype=float)
    return clustered((p - y) ** 2, clusters, **extra)


def expected_calibration_error(
    probabilities: npt.ArrayLike, events: Sequence[bool] | npt.ArrayLike, seed: int = 0, **extra: Any
) -> Estimate:
    """Mean distance between what a model says and how often it is right, over 15 bins of equal width.

    The plain value grows with few cases in a bin, by chance alone. What chance would give a perfectly
    calibrated model is therefore in the method, and the interval is of the bootstrap less that bias.

    Args:
        probabilities: [n] of the event, 0 to 1. Of two sides, which one is the event is drawn at random.
        events: [n] whether it came to be.
        seed: of the draws.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(events, dtype=float)
    known = np.isfinite(p)
    p, y, lost = p[known], y[known], int((~known).sum())
    n = len(p)
    extra |= {"seed": seed, "fewest": BOUNDED}
    if n == 0:
        return Estimate(None, 0, lost, method="nothing is scored", **extra)
    rng = np.random.default_rng(seed)
    value = _ece(p[None], y[None])[0]
    chance = float(_ece(np.tile(p, (200, 1)), (rng.random((200, n)) < p).astype(float)).mean())
    method = f"ECE, {BINS} bins; calibrated by chance {chance:.3g}"
    if n < UNBOUNDED:
        return Estimate(float(value), n, lost, n, method=f"{method}; too few for an interval", **extra)
    drawn = rng.integers(0, n, (DRAWS, n))
    draws = _ece(p[drawn], y[drawn])
    shift = float(draws.mean() - value)
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) - shift
    low, high = min(float(low), float(value)), max(float(high), float(value))
    return Estimate(float(value), n, lost, n, max(0.0, low), min(1.0, high), f"{method}, bootstrap", **extra)


def _ece(p: Array, y: Array) -> Array:
    """[draws, n] -> [draws] sum over bins of |mean probability - share of events| times share of cases."""
    draws, n = p.shape
    which = np.minimum((p * BINS).astype(int), BINS - 1) + BINS * np.arange(draws)[:, None]
    gap = np.bincount(which.ravel(), weights=(p - y).ravel(), minlength=BINS * draws)
    total: Array = np.abs(gap).reshape(draws, BINS).sum(1) / n
    return total
