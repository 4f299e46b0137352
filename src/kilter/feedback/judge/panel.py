"""Several judges as one: a strict majority of the panel decides, and a failed judge withholds its vote."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence

from kilter.feedback.judge.verdict import ORDERS, Comparison, Exam, Judgement, Order, ToldJudge, Verdict


class Panel:
    """Judges that vote.

    Args:
        members: whoever votes; the size of the panel is their number, whether they can be reached or not.
    """

    def __init__(self, members: Sequence[ToldJudge]) -> None:
        self.members = tuple(members)
        self.name = f"panel of {', '.join(m.name for m in members)}"
        self.fingerprint = hashlib.sha256("\n".join(m.fingerprint for m in members).encode()).hexdigest()

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """See verdict.Judge. The probability is the share of votes for the first answer."""
        found = [m.compare(comparisons, repeats) for m in self.members]
        return [self._judgement(c, [row[n] for row in found], repeats) for n, c in enumerate(comparisons)]

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """See verdict.Judge. The mean grade of the members, where more than half of the panel gave one."""
        found = [m.grade(exams, repeats) for m in self.members]
        return [
            tuple(self._grade([row[n][r] for row in found], r) for r in range(repeats))
            for n in range(len(exams))
        ]

    def begin_compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> None:
        """See verdict.ToldJudge."""
        for member in self.members:
            member.begin_compare(comparisons, repeats)

    def begin_grade(self, exams: Sequence[Exam], repeats: int = 1) -> None:
        """See verdict.ToldJudge."""
        for member in self.members:
            member.begin_grade(exams, repeats)

    def _judgement(self, comparison: Comparison, judged: Sequence[Judgement], repeats: int) -> Judgement:
        verdicts = tuple(self._vote(judged, order, r) for r in range(repeats) for order in ORDERS)
        votes = {f"{n}: {m.name}": j.p for n, (m, j) in enumerate(zip(self.members, judged, strict=True))}
        return Judgement(comparison, verdicts, {"votes": votes})

    def _vote(self, judged: Sequence[Judgement], order: Order, repeat: int) -> Verdict:
        """One order's vote. Who is undecided or unscored withholds it, and the majority is of all members."""
        own = [v for j in judged for v in j.verdicts if (v.order, v.repeat) == (order, repeat)]
        values = [v.value for v in own if v.value is not None]
        first, second = sum(v > 0.5 for v in values), sum(v < 0.5 for v in values)
        if max(first, second) * 2 > len(self.members):
            return Verdict(first / (first + second), order, repeat, how="votes")
        reason = f"{first} votes to {second} are no majority of a panel of {len(self.members)}"
        return _unscored(own, order, repeat, reason)

    def _grade(self, verdicts: Sequence[Verdict], repeat: int) -> Verdict:
        values = [v.value for v in verdicts if v.value is not None]
        if len(values) * 2 > len(self.members):
            return Verdict(statistics.fmean(values), "forward", repeat, how="votes")
        reason = f"{len(values)} grades are no majority of a panel of {len(self.members)}"
        return _unscored(verdicts, "forward", repeat, reason)


def _unscored(votes: Sequence[Verdict], order: Order, repeat: int, reason: str) -> Verdict:
    """No verdict of the panel, with the first of its members' reasons."""
    problems = [v.reason for v in votes if v.reason]
    failed = any(v.failed for v in votes)
    return Verdict(None, order, repeat, reason="; ".join([reason, *problems[:1]]), failed=failed)
