"""What a judge says, order by order, and what follows from it. No torch, no network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kilter.types import Prompt

Order = Literal["forward", "swapped"]
"""forward: the first answer of the comparison is shown first. swapped: it is shown second."""

ORDERS: tuple[Order, Order] = ("forward", "swapped")
"""Both, in the order in which verdicts stand."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt.

    reference: an answer known to be right, "" without one. principle: what alone counts, "" without one.
    """

    prompt: Prompt
    first: str
    second: str
    id: str = ""
    reference: str = ""
    principle: str = ""


@dataclass(frozen=True, slots=True)
class Exam:
    """One answer that is graded by itself."""

    prompt: Prompt
    answer: str
    id: str = ""
    reference: str = ""
    principle: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One call's result.

    Args:
        value: comparisons: the probability, 0 to 1, that the FIRST answer of the comparison is better, in
            whatever order it was shown. Grades: the score, 0 to 1. None is unscored.
        order: in which order the two answers were shown; "forward" for a grade.
        repeat: 0-based number of the repetition.
        mass: what the verdict's tokens had together, 0 to 1; None where the verdict was read from text.
        how: where the verdict stood.
        reason: why it is unscored; "" where it is scored.
        rationale: what the judge wrote before it.
        raw: SHA-256 of the whole reply.
        failed: whether nothing was replied: an error is not an opinion, and may pass.
    """

    value: float | None
    order: Order = "forward"
    repeat: int = 0
    mass: float | None = None
    how: Literal["", "schema", "tag", "logprob", "votes"] = ""
    reason: str = ""
    rationale: str = ""
    raw: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts on one comparison."""

    comparison: Comparison
    verdicts: tuple[Verdict, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a judge of several parts adds: votes, principles that fired."""

    def of(self, order: Order) -> float | None:
        """Mean probability over the repeats of one order; None where one of them is unscored or none is."""
        values = [v.value for v in self.verdicts if v.order == order]
        known = [v for v in values if v is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None

    @property
    def p(self) -> float | None:
        """Chance that the first answer is better: the mean of both orders, None unless both are scored."""
        forward, swapped = self.of("forward"), self.of("swapped")
        return None if forward is None or swapped is None else (forward + swapped) / 2

    @property
    def consistent(self) -> bool | None:
        """Whether both orders prefer the same answer; None where one of them is unscored.

        Two exact ties agree; a tie and a preference do not.
        """
        forward, swapped = self.of("forward"), self.of("swapped")
        if forward is None or swapped is None:
            return None
        return (forward > 0.5) == (swapped > 0.5) and (forward < 0.5) == (swapped < 0.5)

    @property
    def failed(self) -> bool:
        """Whether it is unscored because a call failed."""
        return self.p is None and any(v.failed for v in self.verdicts)

    @property
    def reason(self) -> str:
        """Why it is unscored; "" where it is scored."""
        if self.p is not None:
            return ""
        return next((v.reason for v in self.verdicts if v.value is None), "not asked in both orders")


class Judge(Protocol):
    """Whoever compares and grades. Everything that uses a judge, the audit included, sees only this."""

    @property
    def fingerprint(self) -> str:
        """Hash of model or endpoint, wording, mode and sampling: what a certificate is bound to."""
        ...

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """Judges each comparison in both orders, `repeats` times, in the order given.

        A call that fails or cannot be read is an unscored verdict, and ends no other.
        """
        ...

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """Grades each answer by itself, one verdict per repeat."""
        ...


class ToldJudge(Judge, Protocol):
    """A judge that may be told what it will be asked, so that it thinks while others go on.

    What it is told of together is asked together, and its verdicts are the same as without.
    """

    def begin_compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> None:
        """Told of comparisons that `compare` will be given."""
        ...

    def begin_grade(self, exams: Sequence[Exam], repeats: int = 1) -> None:
        """Told of answers that `grade` will be given."""
        ...
