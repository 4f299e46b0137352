"""A judge that does as it is told: for tests, simulations and rehearsals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from kilter.feedback.judge.verdict import ORDERS, Comparison, Exam, Judgement, Order, Verdict

Preference = Callable[[Comparison, Order, int], float | None]
"""(comparison, order, repeat) to the probability that the comparison's first answer is better."""

Grade = Callable[[Exam, int], float | None]
"""(exam, repeat) to a grade of 0 to 1."""

SILENT = "the script says nothing"


class ScriptedJudge:
    """Judge by functions; None is unscored.

    Args:
        prefers: compares.
        grades: grades.
        name: also decides the fingerprint.
    """

    def __init__(
        self,
        prefers: Preference = lambda comparison, order, repeat: None,
        grades: Grade = lambda exam, repeat: None,
        name: str = "scripted",
    ) -> None:
        self._prefers, self._grades, self.name = prefers, grades, name
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """See verdict.Judge."""
        return [
            Judgement(
                c,
                tuple(
                    self._verdict(self._prefers(c, order, r), order, r)
                    for r in range(repeats)
                    for order in ORDERS
                ),
            )
            for c in comparisons
        ]

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """See verdict.Judge."""
        return [tuple(self._verdict(self._grades(e, r), "forward", r) for r in range(repeats)) for e in exams]

    def _verdict(self, value: float | None, order: Order, repeat: int) -> Verdict:
        reason = SILENT if value is None else ""
        return Verdict(value, order, repeat, 1.0, "" if value is None else "tag", reason)
