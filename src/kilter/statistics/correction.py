"""From what an instrument counts to what is there: Rogan-Gladen, and prediction-powered inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kilter.statistics.estimates import LEVEL, Estimate, sample
from kilter.statistics.floors import UNBOUNDED
from kilter.statistics.means import inferred, mean
from kilter.statistics.paired import paired_difference
from kilter.statistics.shares import share_bounds, wilson_bounds

Z = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well an instrument tells events from others, measured on cases whose truth is known.

    Args:
        sensitivity: share of events that it counts, 0 to 1.
        specificity: share of other cases that it does not count, 0 to 1.
        n_positive: events that sensitivity was measured on; None: known without measuring.
        n_negative: other cases that specificity was measured on; None: known without measuring.
    """

    sensitivity: float
    specificity: float
    n_positive: int | None = None
    n_negative: int | None = None

    @property
    def exact(self) -> bool:
        """Whether what it counts is what is there."""
        return self.sensitivity == self.specificity == 1 and self.n_positive is None is self.n_negative

    @property
    def youden(self) -> float:
        """Sensitivity + specificity - 1: 0 tells nothing, 1 everything."""
        return self.sensitivity + self.specificity - 1

    @property
    def informs(self) -> bool:
        """Whether it surely counts more of the events than of the other cases: its interval is above 0."""
        return self.youden - Z * self.deviation() > 0

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Wilson intervals of sensitivity and specificity."""
        pairs = {
            "sensitivity": (self.sensitivity, self.n_positive),
            "specificity": (self.specificity, self.n_negative),
        }
        return {k: (v, v) if n is None else wilson_bounds(round(v * n), n) for k, (v, n) in pairs.items()}

    def deviation(self) -> float:
        """Standard deviation of the measured Youden index, one case added to either side of each share."""
        shares = ((self.sensitivity, self.n_positive), (self.specificity, self.n_negative))
        return math.sqrt(sum(_smoothed(share, n)[1] for share, n in shares))


EXACT = Accuracy(1.0, 1.0)
"""Of a reader that is right by construction."""


def corrected_rate(rate: Estimate, accuracy: Accuracy) -> Estimate:
    """A rate as it would be counted without errors (Rogan and Gladen 1978).

        (p + specificity - 1) / (sensitivity + specificity - 1), cut to 0..1

    The interval carries the uncertainty of the rate and of both measured shares (Lang and Reiczigel 2014).
    It is as wide as that of no event at all, seen by the same instrument: fewer counts than false alarms are
    luck, or a specificity that is another here, and neither says more than no event in n cases.

    Args:
        rate: a counted share of n independent cases.
        accuracy: of the instrument that counted.
    """
    if rate.value is None or rate.n == 0 or accuracy.exact:
        return rate
    if not accuracy.informs:
        return _uninformed(rate)
    value = (rate.value + accuracy.specificity - 1) / accuracy.youden

    # All three shares are drawn a little towards a half, so that none has a variance of 0.
    own = independent(rate)
    n = own + Z * Z
    p = (own * rate.value + Z * Z / 2) / n
    se, var_se = _smoothed(accuracy.sensitivity, accuracy.n_positive)
    sp, var_sp = _smoothed(accuracy.specificity, accuracy.n_negative)
    youden = se + sp - 1
    middle = (p + sp - 1) / youden
    shift = 2 * Z * Z * (middle * var_se - (1 - middle) * var_sp)
    half = Z * math.sqrt(p * (1 - p) / n + middle**2 * var_se + (1 - middle) ** 2 * var_sp) / youden
    unseen = share_bounds(0, own)[1]
    return replace(
        rate,
        value=_cut(value),
        ci_low=min(_cut(value), _cut(middle + shift - half), _cut(1 - unseen / accuracy.specificity)),
        ci_high=max(_cut(value), _cut(middle + shift + half), _cut(unseen / accuracy.sensitivity)),
        method="Rogan-Gladen, Lang-Reiczigel interval",
    )


def independent(rate: Estimate) -> float:
    """How many independent cases a rate is worth: fewer than n where they come in clusters."""
    if not 0 < rate.n_clusters < rate.n:
        return rate.n
    assert rate.value is not None
    if rate.ci_low is None or rate.ci_high is None or not 0 < rate.value < 1:
        return rate.n_clusters
    half = (rate.ci_high - rate.ci_low) / 2
    return min(rate.n, max(1.0, rate.value * (1 - rate.value) * (Z / half) ** 2))


def corrected_difference(difference: Estimate, accuracy: Accuracy) -> Estimate:
    """A difference of two rates that one instrument counted, as it would be without errors.

    False alarms cancel, so it is divided by sensitivity + specificity - 1, and the interval carries the doubt
    about both.
    """
    if difference.value is None or accuracy.exact:
        return difference
    if not accuracy.informs:
        return _uninformed(difference)
    youden, d = accuracy.youden, difference.value
    own = Z * abs(d) * accuracy.deviation() / youden**2
    low, high = difference.ci_low, difference.ci_high
    return replace(
        difference,
        value=d / youden,
        ci_low=None if low is None else d / youden - math.hypot((d - low) / youden, own),
        ci_high=None if high is None else d / youden + math.hypot((high - d) / youden, own),
        method=f"{difference.method}, divided by sensitivity + specificity - 1",
    )


def corrected_any(rate: Estimate, accuracy: Accuracy, k: int) -> Estimate:
    """How often any of k answers is an event, from how often any is counted as one.

        lowest = (p - f) / (1 - f), f = k (1 - specificity)      highest = p / sensitivity

    Where one of k is an event, it is found with a chance of at least the sensitivity. Where none is, a false
    alarm comes with a chance of at most f. Both hold however the errors of one prompt's answers depend on
    each other, so that the true rate lies between the two. The interval carries the uncertainty of the rate
    and of both measured shares as well (MOVER). The value is the middle of what is possible.

    Args:
        rate: share of prompts of which any of k answers was counted.
        accuracy: of the instrument that reads one answer.
        k: answers.
    """
    if k == 1 or accuracy.exact or rate.value is None or rate.ci_low is None or rate.ci_high is None:
        return corrected_rate(rate, accuracy)
    bounds, p = accuracy.bounds(), rate.value
    alarms = k * (1 - accuracy.specificity)
    worst = k * (1 - bounds["specificity"][0])
    if not accuracy.informs or worst >= 1:
        return _uninformed(rate)
    lowest, highest = _cut((p - alarms) / (1 - alarms)), _cut(p / accuracy.sensitivity)

    # How far each bound moves as the rate and then the measured share move to the ends of their intervals.
    by_rate = (p - rate.ci_low) / (1 - alarms)
    by_alarms = (p - alarms) / (1 - alarms) - (p - worst) / (1 - worst)
    more = (rate.ci_high - p) / accuracy.sensitivity
    missed = p / bounds["sensitivity"][0] - p / accuracy.sensitivity
    return replace(
        rate,
        value=(lowest + highest) / 2,
        ci_low=_cut((p - alarms) / (1 - alarms) - math.hypot(by_rate, by_alarms)),
        ci_high=_cut(p / accuracy.sensitivity + math.hypot(more, missed)),
        method=f"any of {k}, bounds for whatever the errors depend on",
    )


def prediction_powered(
    judged: npt.ArrayLike,
    judged_by_both: npt.ArrayLike,
    people: Sequence[float] | npt.ArrayLike,
    clusters: Sequence[Any] | None = None,
    clusters_by_both: Sequence[Any] | None = None,
    **extra: Any,
) -> Estimate:
    """Mean of what people would say, from many verdicts of a judge and few of people.

        mean(judge, where people said nothing) + mean(people - judge, where both spoke)

    Paper: Angelopoulos et al. 2023, "Prediction-powered inference". NaN is unscored and left out.

    Args:
        judged: [N] the judge's values of cases that no person saw.
        judged_by_both: [n] the judge's values of cases that people saw.
        people: [n] theirs.
        clusters: [N] which of the first belong together; None: each stands for itself.
        clusters_by_both: [n] the same of the others.
    """
    alone = sample(judged, clusters)
    both = sample(np.asarray(people, dtype=float) - np.asarray(judged_by_both, dtype=float), clusters_by_both)
    n, lost, held = alone.n + both.n, alone.unscored + both.unscored, alone.clusters + both.clusters
    extra |= {"fewest": UNBOUNDED}
    if alone.clusters < 2 or both.clusters < 2:
        return Estimate(None, n, lost, held, method="prediction-powered: too few cases", **extra)
    # Each part has the interval of its kind, which knows that what was not seen may be all the same there.
    one = mean(judged, clusters=clusters)
    two = paired_difference(_floats(people), _floats(judged_by_both), clusters=clusters_by_both)
    value = float(alone.values.mean() + both.values.mean())
    low, high = _sum_bounds((one, two))
    # A share stays one, whatever the corrections say.
    if inferred(np.concatenate([alone.values, np.asarray(people, dtype=float)])) and low is not None:
        assert high is not None
        value, low, high = map(_cut, (value, low, high))
    method = f"prediction-powered, {both.n} by people"
    return Estimate(value, n, lost, held, low, high, method, **extra)


def _floats(values: npt.ArrayLike) -> list[float | None]:
    return [float(v) for v in np.asarray(values, dtype=float)]


def _sum_bounds(parts: Sequence[Estimate]) -> tuple[float | None, float | None]:
    """Bounds of a sum of independent estimates (MOVER); None where one of them has none."""
    below, above = [], []
    for part in parts:
        if part.value is None or part.ci_low is None or part.ci_high is None:
            return None, None
        below.append(part.value - part.ci_low)
        above.append(part.ci_high - part.value)
    value = sum(part.value for part in parts if part.value is not None)
    return value - math.hypot(*below), value + math.hypot(*above)


def _smoothed(share: float, n: int | None) -> tuple[float, float]:
    """A measured share with one case added to either side, and its variance; as it is where it is known."""
    if n is None:
        return share, 0.0
    drawn = (n * share + 1) / (n + 2)
    return drawn, drawn * (1 - drawn) / (n + 2)


def _cut(share: float) -> float:
    return min(1.0, max(0.0, share))


def _uninformed(estimate: Estimate) -> Estimate:
    return replace(
        estimate, value=None, ci_low=None, ci_high=None, method="the instrument tells no events from others"
    )
