"""One judge: both orders, repeats, probabilities of the verdict or its words; unscored stays unscored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kilter.feedback.judge import parse
from kilter.feedback.judge.prompts import GRADED, TIE, Asker, Question, follow
from kilter.feedback.judge.spec import JudgeSpec, Mode, Reading
from kilter.feedback.judge.verdict import ORDERS, Comparison, Exam, Judgement, Order, Verdict
from kilter.seams import Chat
from kilter.types import Ask, Choice


@dataclass(frozen=True, slots=True)
class Found:
    """What one call said: the probability of each option, or why there is none."""

    probabilities: tuple[float, ...] = ()
    mass: float | None = None
    how: Literal["", "schema", "tag", "logprob"] = ""
    reason: str = ""
    rationale: str = ""
    raw: str = ""
    failed: bool = False


def expected_score(probabilities: Sequence[float]) -> float:
    """The mean grade, 1 to the number of grades, under the probabilities of the grades."""
    total = math.fsum(probabilities)
    return math.fsum(n * p for n, p in enumerate(probabilities, start=1)) / total


def centred(score: float, scale: int) -> float:
    """A grade of 1 to `scale` as -1 to 1, as d-RLAIF rewards have it: 7.7 of 10 is 0.488889."""
    middle = (1 + scale) / 2
    return (score - middle) / (scale - middle)


def clamped(p: float, clamp: tuple[float, float] | None) -> float:
    """The probability kept inside the bounds: with (0.4, 0.6), 0.05 becomes 0.4 and 0.93 becomes 0.6."""
    return p if clamp is None else min(clamp[1], max(clamp[0], p))


@dataclass
class ChatJudge:
    """A judge over anyone who can be talked to.

    Args:
        chat: who is asked.
        spec: what is asked, and how the reply is read.
        fingerprint: see verdict.Judge.
        name: what a person calls it.
        length: tokens of a question.
        begin: takes asks and options that will be asked for; see PaidChat.begin. None: nothing is begun.
    """

    chat: Chat
    spec: JudgeSpec
    fingerprint: str
    name: str
    length: Callable[[Ask], int]
    begin: Callable[[Sequence[Ask], Sequence[str] | None], None] | None = None

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """See verdict.Judge. A judge that grades compares the grades of both answers."""
        if self.spec.mode in GRADED:
            return self._compare_grades(comparisons, repeats)
        calls = _calls(comparisons, repeats)
        found = self._found([self._asker.pair(c, order, repeat) for c, repeat, order in calls])
        verdicts = [self._preference(f, o, r) for f, (_, r, o) in zip(found, calls, strict=True)]
        size = repeats * len(ORDERS)
        return [Judgement(c, tuple(verdicts[n * size : (n + 1) * size])) for n, c in enumerate(comparisons)]

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """See verdict.Judge. Grades are 0 to 1: the lowest to the highest, or the probability of safe."""
        found = self._graded(exams, repeats)
        return [
            tuple(self._verdict(f, self._value(f), "forward", r) for r, f in enumerate(row)) for row in found
        ]

    def begin_compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> None:
        """See verdict.ToldJudge."""
        if self.spec.mode in GRADED:
            self.begin_grade(_exams(comparisons), repeats)
        elif self.begin is not None:
            self._begin([self._asker.pair(c, o, r) for c, r, o in _calls(comparisons, repeats)])

    def begin_grade(self, exams: Sequence[Exam], repeats: int = 1) -> None:
        """See verdict.ToldJudge."""
        if self.begin is not None and self.spec.mode in GRADED:
            kept = [e for e in exams if self._gradable(e)]
            self._begin([self._asker.single(e, r) for e in kept for r in range(repeats)])

    def _begin(self, questions: Sequence[Question]) -> None:
        """Sends off the first call of each question; a second one waits for what it says."""
        short = [q for q in questions if self.length(q.ask) <= self.spec.max_length]
        if short and self.begin is not None:
            self.begin([q.ask for q in short], short[0].options if self.spec.read in CHOOSES_FIRST else None)

    @property
    def _asker(self) -> Asker:
        return Asker(self.spec.mode, self.spec.read, self.spec.criterion, self.spec.scale)

    def _graded(self, exams: Sequence[Exam], repeats: int) -> list[list[Found]]:
        """[exam][repeat]."""
        if self.spec.mode not in GRADED:
            refused = Found(reason=f"a judge of mode {self.spec.mode} compares, and gives no grades")
            return [[refused] * repeats for _ in exams]
        kept = [e for e in exams if self._gradable(e)]
        found = iter(self._found([self._asker.single(e, r) for e in kept for r in range(repeats)]))
        missing = Found(reason="the prompt has no right answer to compare with")
        return [[next(found) if self._gradable(e) else missing for _ in range(repeats)] for e in exams]

    def _gradable(self, exam: Exam) -> bool:
        """Whether an answer can be graded: not beside a right answer that is not there."""
        return bool(exam.reference) or self.spec.mode != "reference"

    def _compare_grades(self, comparisons: Sequence[Comparison], repeats: int) -> list[Judgement]:
        """Grades each answer by itself: P(first better) = P(its grade is higher) + P(equal) / 2."""
        found = self._graded(_exams(comparisons), repeats)
        rows = []
        for n, c in enumerate(comparisons):
            verdicts = []
            for repeat, (a, b) in enumerate(zip(found[2 * n], found[2 * n + 1], strict=True)):
                # An answer that is graded alone has no place beside another: both orders are one.
                unknown = a if not a.probabilities else b
                value = _higher(a, b, self.spec.mode) if a.probabilities and b.probabilities else None
                verdicts += [self._verdict(unknown, value, order, repeat) for order in ORDERS]
            rows.append(Judgement(c, tuple(verdicts)))
        return rows

    def _preference(self, found: Found, order: Order, repeat: int) -> Verdict:
        """A verdict on A and B as one on the first and the second answer."""
        value = None
        if found.probabilities:
            shown_first = found.probabilities[0]
            value = self._clamp(shown_first if order == "forward" else 1 - shown_first)
        return self._verdict(found, value, order, repeat)

    def _clamp(self, p: float) -> float:
        return clamped(p, self.spec.clamp)

    def _value(self, found: Found) -> float | None:
        if not found.probabilities:
            return None
        return VALUES[self.spec.mode](found.probabilities)

    def _verdict(self, found: Found, value: float | None, order: Order, repeat: int) -> Verdict:
        return Verdict(
            value,
            order,
            repeat,
            found.mass,
            found.how if value is not None else "",
            found.reason if value is None else "",
            found.rationale,
            found.raw,
            found.failed,
        )

    def _found(self, questions: Sequence[Question]) -> list[Found]:
        """What the judge said to each question; one that is too long is not asked."""
        lengths = [self.length(q.ask) for q in questions]
        limit = self.spec.max_length
        short = [q for q, n in zip(questions, lengths, strict=True) if n <= limit]
        found = iter(READINGS[self.spec.read](self, short))
        return [
            next(found)
            if n <= limit
            else Found(reason=f"the question has {n} tokens, more than max_length {limit}")
            for n in lengths
        ]

    def _by_probability(self, questions: Sequence[Question]) -> list[Found]:
        """Probabilities of the verdict's tokens, without a word before them."""
        return self._chosen([q.ask for q in questions], [q.options for q in questions])

    def _reasoned(self, questions: Sequence[Question]) -> list[Found]:
        """The reasons first, then the probabilities of the verdict."""
        replies = self.chat.reply([q.ask for q in questions])
        pairs = [(q, r) for q, r in zip(questions, replies, strict=True) if not r.problem]
        asks = [follow(q.ask, r.text, q.then, "verdict") for q, r in pairs]
        found = iter(self._chosen(asks, [q.options for q, _ in pairs]))
        return [
            Found(reason=r.problem, failed=True) if r.problem else replace(next(found), rationale=r.text)
            for r in replies
        ]

    def _chosen(self, asks: Sequence[Ask], options: Sequence[tuple[str, ...]]) -> list[Found]:
        # All questions of a judge have the same options.
        choices = self.chat.choose(asks, options[0]) if asks else []
        return [self._of_choice(c) for c in choices]

    def _of_choice(self, choice: Choice) -> Found:
        """A verdict without enough mass is unscored: the model would rather have said something else."""
        raw = _sha256(json.dumps([choice.options, choice.probabilities, choice.mass]))
        if choice.problem:
            return Found(mass=None, reason=choice.problem, raw=raw, failed=True)
        # A sampler of the user's own may say anything, and NaN would pass every comparison below.
        if not all(0 <= p <= 1 for p in (*choice.probabilities, choice.mass)):
            return Found(reason="the sampler gave numbers that are no probabilities", raw=raw)
        if choice.mass < self.spec.min_mass:
            reason = f"the verdict's tokens have {choice.mass:.3f} of the probability"
            return Found(mass=choice.mass, reason=f"{reason}, less than {self.spec.min_mass}", raw=raw)
        return Found(choice.probabilities, choice.mass, "logprob", raw=raw)

    def _written(self, questions: Sequence[Question]) -> list[Found]:
        """The verdict in words; a reply without one is asked for it once more."""
        first = self._read([q.ask for q in questions], questions)
        again = [n for n, f in enumerate(first) if not f.probabilities and f.rationale]
        asks = [follow(questions[n].ask, first[n].rationale, questions[n].again, "retry") for n in again]
        second = self._read(asks, [questions[n] for n in again])
        for n, f in zip(again, second, strict=True):
            first[n] = replace(f, rationale=first[n].rationale)
        return first

    def _read(self, asks: Sequence[Ask], questions: Sequence[Question]) -> list[Found]:
        replies = self.chat.reply(asks) if asks else []
        found = []
        for reply, q in zip(replies, questions, strict=True):
            if reply.problem:
                found.append(Found(reason=reply.problem, failed=True))
                continue
            allowed = q.options if self.spec.mode in GRADED else (*q.options, TIE)
            parsed = CUT if reply.cut else parse.read(reply.text, q.mark, allowed)
            raw, text = _sha256(reply.text), reply.text or "(nothing)"
            found.append(Found(_certain(parsed.value, q.options), None, parsed.how, parsed.reason, text, raw))
        return found


CUT = parse.Parsed(None, reason="the reply was cut off, at max_tokens or by the endpoint")
"""Of a reply that ended at its limit, or was withheld: its last line may be a thought, or half a word."""

READINGS: Mapping[Reading, Callable[[ChatJudge, Sequence[Question]], list[Found]]] = {
    "logprob": ChatJudge._by_probability,
    "reasoned": ChatJudge._reasoned,
    "text": ChatJudge._written,
}

CHOOSES_FIRST: frozenset[Reading] = frozenset({"logprob"})
"""Readings whose first call asks for probabilities; that of the others asks for words."""

VALUES: Mapping[Mode, Callable[[Sequence[float]], float]] = {
    "rubric": lambda p: (expected_score(p) - 1) / (len(p) - 1),
    "reference": lambda p: (expected_score(p) - 1) / (len(p) - 1),
    "safety": lambda p: p[0],
}
"""Of one answer, 0 to 1."""


def _calls(comparisons: Sequence[Comparison], repeats: int) -> list[tuple[Comparison, int, Order]]:
    """Both orders of a comparison stand side by side, so that their common beginning is read once."""
    return [(c, r, o) for c in comparisons for r in range(repeats) for o in ORDERS]


def _exams(comparisons: Sequence[Comparison]) -> list[Exam]:
    """Both answers of each comparison, to be graded by themselves."""
    return [
        Exam(c.prompt, text, c.id, c.reference, c.principle)
        for c in comparisons
        for text in (c.first, c.second)
    ]


def _certain(value: str | None, options: Sequence[str]) -> tuple[float, ...]:
    """A written verdict as probabilities: a tie is undecided, no verdict is none."""
    if value is None:
        return ()
    return (0.5, 0.5) if value == TIE else tuple(float(o == value) for o in options)


def _higher(a: Found, b: Found, mode: Mode) -> float:
    """P(grade of a > grade of b) + P(equal) / 2."""
    # Grades are listed from the lowest on, and Yes before No.
    sign = -1 if mode == "safety" else 1
    total, above = math.fsum(a.probabilities) * math.fsum(b.probabilities), 0.0
    for i, p in enumerate(a.probabilities):
        for j, q in enumerate(b.probabilities):
            above += p * q * (1 if sign * i > sign * j else 0.5 if i == j else 0)
    return above / total


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
