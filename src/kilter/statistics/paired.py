"""Two models, or two rules, on the same prompts: the mean difference, and the exact tests beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.statistics.discordant import SCORE, discordant_bounds
from kilter.statistics.estimates import Array, Estimate, sample
from kilter.statistics.family import holm
from kilter.statistics.floors import BOUNDED, UNBOUNDED
from kilter.statistics.means import Ends, inferred, mean, unbounded
from kilter.statistics.shares import sign_test


@dataclass(frozen=True, slots=True)
class PairedChange(Estimate):
    """A paired difference with its exact sign test; of 0/1 decisions that is McNemar's.

    gains, losses: prompts on which the candidate is higher, and lower. p: that both are as likely, two-sided.
    p_holm: the same, read together with the other candidates. None: nothing was scored.
    """

    gains: int = 0
    losses: int = 0
    p: float | None = None
    p_holm: float | None = None


def paired_changes(
    candidates: Mapping[str, Sequence[float | None]],
    baseline: Sequence[float | None],
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    **extra: Any,
) -> dict[str, PairedChange]:
    """Several candidates against one baseline: each with its interval, and a p-value by Holm's correction.

    What several rows of a cluster say is added up to one sign, for its rows are no independent trials.

    Args:
        candidates: by name, one value per row; None is unscored.
        baseline: the same of what they are compared with.
        clusters: which rows belong together, such as those of one prompt; None: each stands for itself.
    """
    found = {}
    for name, values in candidates.items():
        estimate = paired_difference(values, baseline, clusters=clusters, **extra)
        facts = {f.name: getattr(estimate, f.name) for f in fields(Estimate)}
        net = _net(values, baseline, clusters)
        up, down = int((net > 0).sum()), int((net < 0).sum())
        found[name] = PairedChange(**facts, gains=up, losses=down, p=sign_test(net) if len(net) else None)
    known = {name: c.p for name, c in found.items() if c.p is not None}
    together = dict(zip(known, holm(list(known.values())), strict=True))
    return {name: replace(c, p_holm=together.get(name)) for name, c in found.items()}


def _net(
    candidate: Sequence[float | None],
    baseline: Sequence[float | None],
    clusters: Sequence[Any] | npt.ArrayLike | None,
) -> Array:
    """[clusters] candidate less baseline, summed over the rows that both have a value for."""
    both = [
        math.nan if a is None or b is None else float(a) - float(b)
        for a, b in zip(candidate, baseline, strict=True)
    ]
    seen = sample(both, clusters)
    return np.round(np.bincount(seen.index, weights=seen.values, minlength=seen.clusters), 12)


def paired_difference(
    candidate: Sequence[float | None],
    baseline: Sequence[float | None],
    seed: int = 0,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    ends: Ends | None = None,
    **extra: Any,
) -> Estimate:
    """Mean of candidate - baseline over the prompts that both have a value for.

    A difference of values within lowest..highest lies within their span. 0/1 values of independent rows have
    Tango's interval (`discordant_bounds`), and the exact McNemar p-value is added to the method.

    Args:
        candidate: one value per prompt.
        baseline: the same of the other model.
        seed: noted in the estimate; nothing is drawn.
        clusters: which prompts belong together; None: each stands for itself.
        ends: lowest and highest that a value (not a difference) can be; None: 0..1 if all lie there.
    """
    both = [
        (math.nan, math.nan) if a is None or b is None else (float(a), float(b))
        for a, b in zip(candidate, baseline, strict=True)
    ]
    pairs = np.array(both, dtype=float).reshape(-1, 2)
    known = pairs[np.isfinite(pairs).all(1)]
    differences = pairs[:, 0] - pairs[:, 1]
    span = None if ends is None else ends[1] - ends[0]
    if span is None and (within := inferred(known.ravel())) is not None:
        span = within[1] - within[0]
    # What is 0.3 - 0.1 here and 0.5 - 0.3 there is the same difference.
    differences = np.round(differences, 12)
    scale = (-span, span) if span is not None else _reach(known, differences)
    if scale is None:
        estimate = unbounded(differences, clusters, seed=seed, **extra)
    else:
        estimate = mean(differences, seed, clusters=clusters, ends=scale, **extra)
    # Trials of a score test, and McNemar's, are independent rows.
    alone = estimate.n_clusters == estimate.n and span == 1.0
    if alone and len(known) and np.isin(known, (0.0, 1.0)).all():
        return _decisions(estimate, known)
    return replace(estimate, method=f"paired, {estimate.method}")


def _decisions(estimate: Estimate, known: Array) -> Estimate:
    """The estimate of independent 0/1 decisions, with the interval that is made for them."""
    differences = known[:, 0] - known[:, 1]
    up, down = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = discordant_bounds(up, down, len(known))
    # Where nothing differs, the score test gives what constant values have.
    kind = SCORE if np.ptp(differences) > 0 else estimate.method
    method = f"paired, {kind}, McNemar exact p={mcnemar_p(known):.3g}"
    return replace(estimate, ci_low=low, ci_high=high, method=method, fewest=BOUNDED)


def _reach(known: Array, differences: Array) -> Ends | None:
    """Where all differences are the same, an unseen one is no larger than the largest value of either."""
    finite = differences[np.isfinite(differences)]
    if len(finite) < UNBOUNDED or np.ptp(finite) > 0:
        return None
    far = max(1.0, float(np.abs(known).max()))
    return float(finite[0]) - far, float(finite[0]) + far


def mcnemar_p(pairs: Array) -> float:
    """Exact two-sided p-value of two 0/1 outcomes per row: where they differ, both ways are as likely."""
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[int(((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    return float(mcnemar(table, exact=True).pvalue)
