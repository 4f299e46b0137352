"""Every measured quantity is an Estimate: value, n, unscored, clusters, interval and method.

Statistics come from scipy and statsmodels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured quantity.

    CI bounds are None when n is too small to say anything. `higher_is_better` may be unknown.
    """

    value: float | None
    n: int
    n_unscored: int = 0
    n_clusters: int = 0
    ci_low: float | None = None
    ci_high: float | None = None
    method: str = ""
    seed: int = 0
    judge: str = ""
    data_hash: str = ""
    unit: str = ""
    higher_is_better: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The estimate as a dict of plain values, for JSON."""
        return asdict(self)


def proportion(events: Sequence[bool | None], **extra: Any) -> Estimate:
    """Share of events with Wilson's interval; None is unscored."""
    known = [e for e in events if e is not None]
    if not known:
        return Estimate(None, 0, len(events), method="Wilson", **extra)
    low, high = wilson_bounds(sum(known), len(known))
    return Estimate(
        sum(known) / len(known),
        len(known),
        len(events) - len(known),
        len(known),
        low,
        high,
        "Wilson",
        **extra,
    )


def mean(values: Sequence[float | None], seed: int = 0, binary: bool = False, **extra: Any) -> Estimate:
    """Mean over prompts (one value per prompt) with a BCa bootstrap interval; None is unscored.

    Constant values have no bootstrap distribution, and an interval of zero width would claim certainty: the
    bounds are None then, which a gate reads as inconclusive. Only `binary` values (outcomes in 0..1, such as
    wins) that are all 0 or all 1 get Wilson's interval.
    """
    known = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    unscored = len(values) - len(known)
    if len(known) == 0:
        return Estimate(None, 0, unscored, method="BCa bootstrap over prompts", seed=seed, **extra)
    value = float(known.mean())
    if len(known) < 2:
        return Estimate(value, 1, unscored, 1, method="n too small for an interval", seed=seed, **extra)
    if np.ptp(known) == 0:
        if binary and value in (0.0, 1.0):
            low, high = wilson_bounds(int(value) * len(known), len(known))
            return Estimate(
                value, len(known), unscored, len(known), low, high, "Wilson (constant)", seed, **extra
            )
        return Estimate(
            value, len(known), unscored, len(known), None, None, "constant: no interval", seed, **extra
        )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # scipy warns on near-degenerate samples; the percentile fallback below covers it
        result = stats.bootstrap(
            (known,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
        low, high = result.confidence_interval
        method = "BCa bootstrap over prompts"
        if not (math.isfinite(low) and math.isfinite(high)):
            result = stats.bootstrap(
                (known,),
                np.mean,
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                method="percentile",
                rng=np.random.default_rng(seed),
            )
            low, high = result.confidence_interval
            method = "percentile bootstrap over prompts"
    return Estimate(value, len(known), unscored, len(known), float(low), float(high), method, seed, **extra)


def paired_difference(
    candidate: Sequence[float | None], baseline: Sequence[float | None], seed: int = 0, **extra: Any
) -> Estimate:
    """Mean of candidate - baseline over the prompts that both have a value for, bootstrapped over prompts.

    With 0/1 values the exact McNemar p-value is added to the method.
    """
    both = [(a, b) for a, b in zip(candidate, baseline, strict=True)]
    differences = [None if a is None or b is None else a - b for a, b in both]
    estimate = mean(differences, seed, **extra)
    known = [(a, b) for a, b in both if a is not None and b is not None]

    # Equal differences have no bootstrap. What lies in 0..1 still has bounds, narrower with more of the same.
    if estimate.ci_low is None and estimate.n > 1 and all(0 <= x <= 1 for pair in known for x in pair):
        assert estimate.value is not None
        low, high = constant_bounds(estimate.value, -1, 1, estimate.n)
        estimate = replace(estimate, ci_low=low, ci_high=high, method="Wilson (constant)")
    method = f"paired, {estimate.method}"
    if known and all(x in (0.0, 1.0) for pair in known for x in pair):
        table = [[sum(a == i and b == j for a, b in known) for j in (0, 1)] for i in (0, 1)]
        method += f", McNemar exact p={float(mcnemar(table, exact=True).pvalue):.3g}"
    return replace(estimate, method=method)


def win_rate(outcomes: Sequence[float | None], seed: int = 0, **extra: Any) -> Estimate:
    """Mean of outcomes, one per prompt: 1 a win, 0 a loss, 1/2 a tie.

    The method has the counts of wins, ties and losses.
    """
    known = [w for w in outcomes if w is not None]
    estimate = mean(outcomes, seed, binary=True, **extra)
    counts = f"W/T/L {known.count(1.0)}/{known.count(0.5)}/{known.count(0.0)}"
    return replace(estimate, method=f"{counts}, {estimate.method}")


def wilson_bounds(events: int, n: int) -> tuple[float, float]:
    """Wilson interval of events out of n.

    It is exactly 0 below no events and 1 above all, where rounding would leave a trace.
    """
    low, high = proportion_confint(events, n, 1 - LEVEL, method="wilson")
    return (0.0 if events == 0 else float(low)), (1.0 if events == n else float(high))


def constant_bounds(value: float, lowest: float, highest: float, n: int) -> tuple[float, float]:
    """Bounds of a mean of which all n observations are the same.

    Args:
        value: of each observation.
        lowest: that an observation can have.
        highest: the same.
        n: observations.

    Returns:
        The mean if the share of other observations is Wilson's bound of 0 in n, and all lie at one end.
    """
    other = wilson_bounds(0, n)[1]
    return value - other * (value - lowest), value + other * (highest - value)


def n_to_certify(limit: float) -> int:
    """Smallest n for which zero events out of n puts Wilson's upper bound below `limit`."""
    n = 1
    while wilson_bounds(0, n)[1] >= limit:
        n = max(n + 1, int(n * 1.1))
        if n > 10_000_000:
            break
    while n > 1 and wilson_bounds(0, n - 1)[1] < limit:
        n -= 1
    return n
