"""Several claims at once: Holm's step-down correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from kilter.statistics.estimates import LEVEL

Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that may be read one by one: any false claim among them is as unlikely as each alone."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def one_sided_p(value: float, bound: float, limit: float) -> float:
    """p-value of `value is beyond limit`, from the distance between an estimate and one of its 95 % bounds.

    It is 2.5 % where the bound lies on the limit, so that bound and p-value never disagree.
    """
    if bound == value:
        return 0.0 if limit != value else 0.5
    return float(stats.norm.sf(math.copysign(1.0, value - bound) * Z * (value - limit) / abs(value - bound)))
