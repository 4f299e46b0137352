"""Claims that are made together: the more of them, the likelier that one holds by chance."""

from __future__ import annotations

from collections.abc import Sequence

from kilter.release.gate.condition import Case
from kilter.release.gate.policy import MEANS, Condition
from kilter.statistics import holm, one_sided_p


def corrected(conditions: Sequence[Condition], case: Case) -> list[float | None]:
    """p-value of each condition after Holm within its family; None where it stands alone.

    A claim that was not measured counts as one that does not hold, so that leaving it out gains nothing.
    """
    found: list[float | None] = [None] * len(conditions)
    families = {c.family for c in conditions if c.family is not None}
    for family in families:
        places = [i for i, c in enumerate(conditions) if c.family == family and c.bound not in MEANS]
        adjusted = holm([_p(conditions[i], case) for i in places])
        for place, p in zip(places, adjusted, strict=True):
            found[place] = p
    return found


def _p(condition: Condition, case: Case) -> float:
    """One-sided p-value of a condition, from its estimate and the bound it reads."""
    metric = case.metric(condition)
    if metric is None or metric.get("value") is None or metric.get(condition.field) is None:
        return 1.0
    return one_sided_p(float(metric["value"]), float(metric[condition.field]), condition.value)
