"""Verdicts on comparisons as arrays: every measure is a few lines, and thousands of audits are quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.feedback.judge.verdict import ORDERS, Comparison, Verdict

Array = npt.NDArray[np.float64]
NEAR = 1e-6
"""Probabilities this close to a half are ties: sums of probabilities are not exact."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A comparison of the audit.

    Args:
        comparison: what the judge sees. Of a changed answer, the changed one is the first.
        cluster: comparisons of one prompt have the same number.
        label: 1 where people prefer the first answer, 0 the second; NaN is unknown.
        writer: 1 where the first answer alone is the judge's own, 0 the second alone; NaN is unknown.
    """

    comparison: Comparison
    cluster: int
    label: float = float("nan")
    writer: float = float("nan")


@dataclass(frozen=True)
class Sheet:
    """n comparisons, each in both orders and R times.

    Args:
        read: [n, 2, R] P(first answer better), in the order forward, swapped; NaN could not be read.
        mass: [n, 2, R] probability of the verdict's tokens; NaN where the verdict was read from text.
        clusters: [n].
        labels: [n], see Asked.
        writers: [n], see Asked.
        min_mass: a verdict with less is read, and unscored.
        reasons: why verdicts could not be read, one per verdict that did not fail.
        failed: [n, 2, R] nothing was replied, which is not the judge's doing; default: none of them.
    """

    read: Array
    mass: Array
    clusters: npt.NDArray[np.int64]
    labels: Array
    writers: Array
    min_mass: float = 0.0
    reasons: Sequence[str] = field(default=(), compare=False)
    failed: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((1, 1, 1), dtype=np.bool_))

    @cached_property
    def scored(self) -> Array:
        """[n, 2, R] the verdicts that count."""
        return np.where(self.mass < self.min_mass, np.nan, self.read)

    @cached_property
    def outcomes(self) -> Array:
        """[n] 1 where the first answer wins over both orders, 0 the second, .5 a tie; NaN is unscored."""
        return outcome(self.scored.mean((1, 2)))

    @property
    def wins(self) -> Array:
        """[n, 2] the same of each order by itself."""
        return outcome(self.scored.mean(2))

    def verdicts(self, each: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The cluster of each of these values, which are several of each comparison."""
        return np.repeat(self.clusters, int(np.prod(each.shape[1:])))


def outcome(p: Array) -> Array:
    """Probabilities as 1, .5 and 0; NaN stays."""
    return np.where(np.isnan(p), np.nan, np.where(p > 0.5 + NEAR, 1.0, np.where(p < 0.5 - NEAR, 0.0, 0.5)))


def sheet(asked: Sequence[Asked], verdicts: Sequence[Sequence[Verdict]], min_mass: float) -> Sheet:
    """The verdicts on each comparison as one sheet.

    Args:
        asked: the comparisons.
        verdicts: those of each, in both orders and as many repeats for all.
        min_mass: see Sheet.
    """
    repeats = max((v.repeat for row in verdicts for v in row), default=0) + 1
    read = np.full((len(asked), 2, repeats), np.nan)
    mass, failed = np.full_like(read, np.nan), np.zeros(read.shape, dtype=np.bool_)
    for n, row in enumerate(verdicts):
        for v in row:
            at = n, ORDERS.index(v.order), v.repeat
            read[at] = np.nan if v.value is None else v.value
            mass[at] = np.nan if v.mass is None else v.mass
            failed[at] = v.failed
    return Sheet(
        read,
        mass,
        np.array([a.cluster for a in asked], dtype=np.int64),
        np.array([a.label for a in asked]),
        np.array([a.writer for a in asked]),
        min_mass,
        [v.reason for row in verdicts for v in row if v.value is None and not v.failed],
        failed,
    )
