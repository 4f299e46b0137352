"""A constitution as one judge: each principle is asked by itself, priorities decide, then weights.

Of the principles that prefer an answer in both orders, those of the first rank decide alone. Among them the
probabilities are averaged by weight. Where they cancel out, the next rank decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines
from kilter.constitution.chain import about
from kilter.constitution.document import Constitution, Principle
from kilter.constitution.draw import bid
from kilter.constitution.read import load
from kilter.constitution.script import alike
from kilter.data.dataset import prompt_key
from kilter.data.lineage import row_id
from kilter.feedback.context import Context
from kilter.feedback.judge.build import members, over
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import ORDERS, Comparison, Exam, Judgement, Order, ToldJudge, Verdict
from kilter.screen import warn_once

UNDECIDED = 1e-9
MARGIN = 0.05
"""How far from 1/2 a principle decides."""


@dataclass
class ConstitutionJudge:
    """A judge over a judge.

    Args:
        constitution: whose principles are asked.
        judge: compares under one principle.
        drawn: principles that are asked per comparison, drawn by hash; 0 asks all whose scope holds.
        seed: of the draws.
        margin: a principle decides where both orders are further than this from 1/2, on one side.
        decisions: file that every decision is appended to.
    """

    constitution: Constitution
    judge: ToldJudge
    drawn: int = 0
    seed: int = 0
    margin: float = MARGIN
    decisions: Path | None = None

    fingerprint: str = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        # The constitution, the way it is asked, and the judge beneath.
        settings = (self.constitution.fingerprint, self.judge.fingerprint, self.drawn, self.seed, self.margin)
        self.fingerprint = hashlib.sha256(repr(settings).encode()).hexdigest()
        self.name = f"{self.constitution.name} asked of {self.judge.name}"

    def compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[Judgement]:
        """Judges each comparison under every principle that is about it, in both orders.

        A comparison that brings its own principle is judged under that one alone.
        """
        own = [c for c in comparisons if c.principle]
        single = iter(self.judge.compare(own, repeats) if own else ())
        whole = iter(self._whole([c for c in comparisons if not c.principle], repeats))
        return [next(single) if c.principle else next(whole) for c in comparisons]

    def _whole(self, comparisons: Sequence[Comparison], repeats: int) -> list[Judgement]:
        votes = self.votes(comparisons, repeats)
        judgements = [
            combined(self.constitution, c, v, self.margin) for c, v in zip(comparisons, votes, strict=True)
        ]
        if self.decisions is not None:
            append_lines(self.decisions, map(decision, judgements), escape=False)
        return judgements

    def votes(self, comparisons: Sequence[Comparison], repeats: int = 1) -> list[dict[str, Judgement]]:
        """Of each comparison, the judgement by the id of every principle that is about it."""
        asked = self._asked(comparisons)
        found = self.judge.compare([_under(comparisons[n], p) for n, p in asked], repeats) if asked else []
        votes: list[dict[str, Judgement]] = [{} for _ in comparisons]
        for (n, principle), judged in zip(asked, found, strict=True):
            votes[n][principle.id] = judged
        return votes

    def grade(self, exams: Sequence[Exam], repeats: int = 1) -> list[tuple[Verdict, ...]]:
        """A constitution compares answers, and grades none."""
        return [(Verdict(None, reason="a constitution compares, it does not grade"),)] * len(exams)

    def begin_compare(self, comparisons: Sequence[Comparison], repeats: int = 1) -> None:
        """See verdict.ToldJudge."""
        own = [c for c in comparisons if c.principle]
        whole = [c for c in comparisons if not c.principle]
        asked = [*own, *(_under(whole[n], p) for n, p in self._asked(whole))]
        self.judge.begin_compare(asked, repeats)

    def begin_grade(self, exams: Sequence[Exam], repeats: int = 1) -> None:
        """Nothing: a constitution grades none."""

    def _asked(self, comparisons: Sequence[Comparison]) -> list[tuple[int, Principle]]:
        """Numbers of comparisons, each with every principle that is about it."""
        return [(n, p) for n, c in enumerate(comparisons) for p in self._principles(c)]

    def _principles(self, comparison: Comparison) -> list[Principle]:
        known = self.constitution.about(comparison.prompt)
        if not self.drawn:
            return known
        key = prompt_key(comparison.prompt)
        return sorted(known, key=lambda p: -bid(self.seed, key, 0, p))[: self.drawn]


def combined(
    document: Constitution, comparison: Comparison, votes: Mapping[str, Judgement], margin: float
) -> Judgement:
    """The judgement that follows from the principles' own.

    Args:
        document: whose ranks and weights count.
        comparison: what was compared.
        votes: judgement by the id of the principle.
        margin: see ConstitutionJudge.
    """
    ranks, weights = document.tiers, {p.id: p.weight for p in document.principles}
    facts: dict[str, Any] = {"votes": {name: v.p for name, v in votes.items()}, "decided_by": []}
    scored = [name for name, v in votes.items() if v.p is not None]
    if not scored:
        reason = next((v.reason for v in votes.values()), "no principle is about this prompt")
        failed = any(v.failed for v in votes.values())
        verdicts = tuple(Verdict(None, o, reason=reason, failed=failed) for o in ORDERS)
        return Judgement(comparison, verdicts, facts)

    # Equals that cancel out have decided nothing, so the next rank speaks.
    decisive = sorted((n for n in scored if decides(votes[n], margin)), key=lambda n: (ranks[n], n))
    for rank, names in groupby(decisive, key=lambda n: ranks[n]):
        deciding = list(names)
        values = {o: _mean(deciding, weights, votes, o) for o in ORDERS}
        if abs(sum(values.values()) / 2 - 0.5) > UNDECIDED:
            facts |= {"decided_by": deciding, "rank": rank}
            return Judgement(comparison, _verdicts(values), facts)

    # Nobody decides: the mean of all keeps a judge's bias for a place visible to its audit.
    return Judgement(comparison, _verdicts({o: _mean(scored, weights, votes, o) for o in ORDERS}), facts)


def decides(vote: Judgement, margin: float) -> bool:
    """Whether a principle prefers an answer by more than the margin, in both orders."""
    known = [v - 0.5 for order in ORDERS if (v := vote.of(order)) is not None]
    return len(known) == len(ORDERS) and (min(known) > margin or max(known) < -margin)


def decision(judged: Judgement) -> dict[str, Any]:
    """A line of decisions.jsonl."""
    c = judged.comparison
    texts = {
        n: hashlib.sha256(t.encode()).hexdigest()[:16] for n, t in (("first", c.first), ("second", c.second))
    }
    own = {"id": c.id, "row": row_id(c.prompt), **texts, "p": judged.p, "reason": judged.reason}
    return own | dict(judged.facts)


def _under(comparison: Comparison, principle: Principle) -> Comparison:
    prompt = about(comparison.prompt, principle)
    return replace(comparison, prompt=prompt, principle=principle.question)


def _mean(
    names: Sequence[str], weights: Mapping[str, float], votes: Mapping[str, Judgement], order: Order
) -> float:
    total = sum(weights[n] for n in names)
    return sum(weights[n] * (votes[n].of(order) or 0.0) for n in names) / total


def _verdicts(values: Mapping[Order, float]) -> tuple[Verdict, ...]:
    return tuple(Verdict(values[o], o, how="votes") for o in ORDERS)


GENERAL = "general"
"""The shipped constitution that a judge's settings mean where they name none."""

DECISIONS = "decisions.jsonl"
"""In the folder of whoever asks."""


@over.register("constitution")
def asked_of(spec: JudgeSpec, context: Context, judge: ToldJudge) -> ToldJudge:
    """A judge that asks another one, principle by principle, as `mode: constitution` says."""
    constitution = load(spec.constitution or GENERAL, "judge.constitution")
    for one in members(spec) or [spec]:
        for line in alike("judge", one.sampler, [constitution]):
            warn_once(line)
    decisions = None if context.folder is None else context.folder / DECISIONS
    return ConstitutionJudge(constitution, judge, decisions=decisions)
