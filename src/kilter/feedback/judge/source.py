"""A judge as a feedback source: for labels, for rewards in training, and for metrics.

    feedback: {judge: judge.yaml}
    feedback: {judge: {model: builtin:smollm2-135m, mode: rubric, read: logprob}}

Of K answers each is compared with every other in both orders; its score is the mean probability of being the
better one. A judge that grades gives its grade. Both are 0 to 1, and a failed verdict leaves unscored what it
was about.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge import certificate
from kilter.feedback.judge.build import build, check, load_spec, members, over
from kilter.feedback.judge.canary import Canary, canary
from kilter.feedback.judge.itself import models_of
from kilter.feedback.judge.prompts import GRADED, Asker
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import Comparison, Exam, Judge, Judgement, Verdict
from kilter.feedback.registry import feedback_sources
from kilter.refs import FileRef
from kilter.roles.paid import Bill, Rate, estimated_tokens
from kilter.screen import many
from kilter.seams import FeedbackSource, Wants
from kilter.types import Feedback, Group, Prompt, Usage

UNCERTIFIED = "uncertified"
"""In a row's history, in place of the hash of a certificate."""

REFERENCES = ("reference", "answer", "solution", "target")
"""Columns that hold the right answer, the first one that is there."""


class _Named(BaseModel):
    """The short form: the settings stand in a file of their own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    file: FileRef | None = Field(None, description="judge.yaml, in place of all other settings")


class JudgeOptions(JudgeSpec, _Named):
    """What a recipe says of a judge: a file, or the settings themselves."""

    def settled(self, field: str) -> JudgeSpec:
        """The settings, wherever they stand. Raises UserError where they stand twice."""
        if self.file is None:
            return self
        # A run decides for itself where its replies lie and whether they are replayed.
        own = self.model_dump(exclude_unset=True, exclude={"file"})
        if beside := sorted(own.keys() - {"cache", "replay", "max_cost", "certificate"}):
            fix = f"write {beside[0]} into {self.file}, or leave the file out"
            raise UserError(f"{field}.{beside[0]}", own[beside[0]], "stands beside a file", fix)
        return load_spec(self.file, field).model_copy(update=own)


@feedback_sources.register("judge")
class JudgeFeedback(FeedbackSource):
    """A judge's opinion of the answers.

    file: judge.yaml; or the settings of docs/judges.md in its place. Pairwise judges and constitutions
    compare the answers of a group, so each group needs two or more.
    """

    Spec = JudgeOptions
    replays = True
    fits = False

    def __init__(self, spec: JudgeOptions, context: Context) -> None:
        field = "feedback.judge"
        self.spec, self.bill = spec.settled(field), Bill()
        self._told = build(self.spec, context, field, self.bill, file=spec.file)
        self.judge: Judge = self._told
        self._models = models_of(self.spec, context)
        self.graded = self.spec.mode in GRADED
        self._canaries: list[dict[str, Any]] = []
        self.wants = Wants(siblings=not self.graded)
        self._certificate, self._problem = certificate.vouching(
            self.spec.certificate, context.certificates, self.judge.fingerprint
        )
        if self.spec.require_certificate and self._problem:
            raise UserError(
                f"{spec.file or field}.require_certificate",
                True,
                f"is not met: {self._problem}",
                "certify the judge with `kilter audit-judge`, and name its judge.json as certificate",
            )

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion. Then the judge is shown the batch's canary."""
        self.begin(groups)
        found = self._graded(groups) if self.graded else self._compared(groups)
        if self.spec.canary and (one := canary(self.spec.mode, groups, found)) is not None:
            self._canaries.append(self._seen(one))
        return found

    def begin(self, groups: Sequence[Group]) -> None:
        """Judges in workers are told of each group by itself, so that nothing follows from its company."""
        for group in groups:
            if self.graded:
                self._told.begin_grade(_exams([group]), self.spec.repeats)
            else:
                self._told.begin_compare([c for _, c in _pairs(group)], self.spec.repeats)

    def _seen(self, one: Canary) -> dict[str, Any]:
        """What the judge makes of a canary: a tie with it is a failure, for it says nothing."""
        name, right = f"{one.prompt.id}#canary", reference(one.prompt)
        if self.graded:
            verdict = self.judge.grade([Exam(one.prompt, one.text, name, right)])[0][0]
            beaten = None if verdict.value is None else verdict.value < one.score
            return one.line(self.judge.name, beaten, verdict.reason)
        judged = self.judge.compare([Comparison(one.prompt, one.real, one.text, name, right)])[0]
        return one.line(self.judge.name, None if judged.p is None else judged.p > 0.5, judged.reason)

    def canaries(self) -> list[dict[str, Any]]:
        """One for each batch since the last call."""
        found, self._canaries = self._canaries, []
        return found

    def note(self) -> str:
        """What the judge has cost so far."""
        return self.bill.line()

    def history(self) -> Mapping[str, Any]:
        """Who judged, and what vouches for it."""
        named = self._certificate
        vouches = UNCERTIFIED if named is None else sha256_file(named)
        return {
            "judge": self.judge.fingerprint,
            "judge_name": self.judge.name,
            **({"judge_models": self._models} if self._models else {}),
            "certificate": vouches,
            **({} if named is None else {"expires": certificate.read(named).expires.isoformat()}),
            **({"uncertified": self._problem} if self._problem else {}),
        }

    @classmethod
    def vet(cls, options: Any, field: str) -> None:
        """Reads judge.yaml, and refuses settings that no judge of them would read."""
        check(options.settled(field), field)

    @classmethod
    def uncertified(cls, options: Any, context: Any) -> Mapping[str, str]:
        """Why no certificate vouches for the judge; none where one does. Opens no weights."""
        found = cls(options, context)
        return {found.judge.name: found._problem} if found._problem else {}

    @classmethod
    def forecast(cls, options: Any, groups: Sequence[Group]) -> str:
        """How many calls, tokens and how much money the labels of these groups would take."""
        spec: JudgeSpec = options.settled("feedback.judge")
        calls, usage, cost = 0, Usage(), 0.0
        for one in members(spec) or [spec]:
            asker = Asker(one.mode, one.read, one.criterion, one.scale)
            asks = [q.ask for g in groups for q in _questions(asker, g, one.repeats)]
            read = sum(map(estimated_tokens, asks))
            # Reasons are a reply of their own, and then stand in the question for the verdict.
            writes = {"logprob": 1, "text": one.max_tokens, "reasoned": one.max_tokens + 1}[one.read]
            twice = one.read == "reasoned"
            most = Usage(read * (2 if twice else 1) + len(asks) * one.max_tokens * twice, len(asks) * writes)
            calls, usage = calls + len(asks) * (2 if twice else 1), usage + most
            cost += Rate(one.price.prompt, one.price.completion).of(most)
        each = " for each principle" if spec.mode in over.names() else ""
        words = f"{many(calls, 'calls', ',')}{each}, about {usage.prompt_tokens:,} tokens read"
        words += f" and at most {usage.tokens:,} written"
        words += ", and a canary in each batch" if spec.canary else ""
        return words + (f", cost at most about {cost:.4g}" if cost else "")

    def _graded(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        found = iter(self.judge.grade(_exams(groups), self.spec.repeats))
        return [[self._feedback_of(next(found)) for _ in g.completions] for g in groups]

    def _feedback_of(self, verdicts: Sequence[Verdict]) -> Feedback:
        """The mean of the repeats, where all of them are scored."""
        values = [v.value for v in verdicts if v.value is not None]
        whole = len(values) == len(verdicts)
        score = statistics.fmean(values) if values and whole else None
        reason = next((v.reason for v in verdicts if v.reason), "")
        rationale = next((v.rationale for v in verdicts if v.rationale), "") if whole else reason
        return Feedback(score, "judge", rationale=rationale, source=self.judge.name)

    def _compared(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        pairs = [_pairs(g) for g in groups]
        found = iter(self.judge.compare([c for of_group in pairs for _, c in of_group], self.spec.repeats))
        return [
            self._of_group(len(g.completions), {pair: next(found) for pair, _ in of_group})
            for g, of_group in zip(groups, pairs, strict=True)
        ]

    def _of_group(self, count: int, judged: Mapping[tuple[int, int], Judgement]) -> list[Feedback]:
        """An answer that was not compared with all others is unscored: a mean over some is another scale."""
        out = []
        for own in range(count):
            against = tuple(None if other == own else _against(judged, own, other) for other in range(count))
            reasons = [j.reason for pair, j in judged.items() if own in pair and j.reason]
            said = [v.rationale for p, j in judged.items() if own in p for v in j.verdicts if v.rationale]
            wins = [(pair[0] + pair[1]) / 2 for pair in against if pair is not None]
            score = statistics.fmean(wins) if count > 1 and len(wins) == count - 1 else None
            why = next(iter(reasons), "needs two answers" if count < 2 else "")
            rationale = why if score is None else next(iter(said), "")
            out.append(Feedback(score, "judge", rationale=rationale, source=self.judge.name, against=against))
        return out


def _exams(groups: Sequence[Group]) -> list[Exam]:
    """Every answer of the groups, to be graded by itself."""
    return [Exam(g.prompt, c.text, g.prompt.id, reference(g.prompt)) for g in groups for c in g.completions]


def _pairs(group: Group) -> list[tuple[tuple[int, int], Comparison]]:
    """Every two answers of a group, by their numbers."""
    texts, right = [c.text for c in group.completions], reference(group.prompt)
    numbers = itertools.combinations(range(len(texts)), 2)
    return [
        ((a, b), Comparison(group.prompt, texts[a], texts[b], group.prompt.id, right)) for a, b in numbers
    ]


def reference(prompt: Prompt) -> str:
    """The right answer that the data has beside the prompt; "" without one."""
    return next((str(prompt.columns[name]) for name in REFERENCES if prompt.columns.get(name)), "")


def _against(judged: Mapping[tuple[int, int], Judgement], own: int, other: int) -> tuple[float, float] | None:
    """(shown first, shown second): probabilities that the own answer is better; None if unscored."""
    judgement = judged[min(own, other), max(own, other)]
    forward, swapped = judgement.of("forward"), judgement.of("swapped")
    if forward is None or swapped is None:
        return None
    return (forward, swapped) if own < other else (1 - swapped, 1 - forward)


def _questions(asker: Asker, group: Group, repeats: int) -> list[Any]:
    """All that is asked about a group."""
    texts = [c.text for c in group.completions]
    right = reference(group.prompt)
    if asker.mode in GRADED:
        return [asker.single(Exam(group.prompt, t, "", right), r) for t in texts for r in range(repeats)]
    return [
        asker.pair(Comparison(group.prompt, a, b, "", right), order, r)
        for a, b in itertools.combinations(texts, 2)
        for r in range(repeats)
        for order in ("forward", "swapped")
    ]
