"""Gold evidence: answers to the same held-out prompts, judged by a source that training does not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, cut_lines, read_lines
from kilter.errors import UserError
from kilter.evaluation.metrics.length import Length
from kilter.sampling.collect import collect, requests
from kilter.seams import FeedbackSource, Sampler
from kilter.statistics import LEVEL, Estimate, level_of_look, one_sided_p, paired_difference
from kilter.types import Answered, Completion, Feedback, Group, Prompt, SamplingParams

ERROR = 1 - LEVEL
"""Chance that a run in which gold has not fallen is ever said to lose it."""

MARGIN_STEPS = 2
"""Evaluations in a row that must show proxy up and gold down before the run stops."""


@dataclass(frozen=True)
class Evidence:
    """One evaluation: its answers, and the values of gold, proxy and length, one per prompt.

    It also says why a source left some unscored.
    """

    values: dict[str, list[float | None]]
    answers: Sequence[str] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    def require(self) -> None:
        """Raises UserError if the gold source judges none of the answers: there would be no evidence."""
        if all(v is None for v in self.values["gold"]):
            raise UserError(
                "monitors.gold",
                f"{len(self.values['gold'])} held-out answers",
                f"scores none of them ({self.problems.get('gold') or 'no reason given'})",
                "name a source that fits this data, or leave monitors.gold out",
            )


@dataclass
class GoldEvaluator:
    """Scores one answer per held-out prompt by the gold source and by the reward that trains.

    The seed is the same each time.
    """

    prompts: Sequence[Prompt]
    sampler: Sampler
    gold: FeedbackSource
    proxy: FeedbackSource
    params: SamplingParams
    prompt_ids: Sequence[tuple[int, ...]] = ()
    """Tokens of the prompts, once they have been answered."""

    def state(self) -> dict[str, Any]:
        """The gold source's state, such as the scale of a reward model."""
        return self.gold.state()

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.gold.restore(state)

    def __call__(self, first: Sequence[str] = ()) -> Evidence:
        """Scores the answers by both sources.

        `first`: the first evaluation's answers; none if these are the first. A source that compares
        answers sees them beside the present ones.
        """
        collected = collect(self.sampler, requests(self.prompts, 1, self.params, self.prompt_ids))
        self.prompt_ids = collected.prompt_ids
        made = [row[0] for row in collected.completions]
        texts = ["" if c is None else c.text for c in made]
        # A prompt without an answer stays in its place, unscored, so that later evaluations pair with it.
        places = [n for n, c in enumerate(made) if c is not None]
        answers = [c for c in made if c is not None]
        # A judge that compares sets every answer against the start model's.
        first = first or texts
        values: dict[str, list[float | None]] = {}
        problems = {}
        for name, source in (("gold", self.gold), ("proxy", self.proxy)):
            judged = self._judge(source, places, answers, first)
            scores = {n: f.score for n, f in zip(places, judged, strict=True)}
            values[name] = [scores.get(n) for n in range(len(made))]
            reasons = (f.rationale or "no reason given" for f in judged if f.score is None)
            problems[name] = next(reasons, collected.summary())
        asked = zip(self.prompts, made, strict=True)
        values["length"] = [None if c is None else Length().per_prompt(Answered(p, (c,))) for p, c in asked]
        return Evidence(values, texts, problems)

    def _judge(
        self,
        source: FeedbackSource,
        places: Sequence[int],
        answers: Sequence[Completion],
        first: Sequence[str],
    ) -> list[Feedback]:
        """Feedback on the answers to the prompts at these places."""
        beside = [(Completion(text),) if source.wants.siblings else () for text in first]
        groups = [
            Group(self.prompts[n], (a, *beside[n]), (Feedback(None),) * (1 + len(beside[n])))
            for n, a in zip(places, answers, strict=True)
        ]
        return [f[0] for f in source(groups)]


@dataclass
class GoldHistory:
    """Every gold evaluation of a run, on disk in gold.jsonl; the first one is the reference."""

    path: Path | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)

    def load(self, done: int | None) -> None:
        """Keeps the evaluations up to the checkpoint.

        A fresh run (None) keeps none; its first evaluation is that of step 0.
        """
        if self.path is not None:
            cut_lines(self.path, lambda row: done is not None and row["step"] <= done)
            self.entries = list(read_lines(self.path))

    def first_answers(self) -> Sequence[str]:
        """Those of the first evaluation, none before it."""
        answers: list[str] = self.entries[0].get("answers", []) if self.entries else []
        return answers

    def add(self, step: int, found: Evidence) -> dict[str, Any]:
        """Adds an evaluation with its paired differences to the first; returns the entry."""
        values = found.values
        entry: dict[str, Any] = {
            "step": step,
            "values": values,
            "answers": list(found.answers),
            "problems": dict(found.problems),
        }
        first = self.entries[0]["values"] if self.entries else values
        for name in values:
            # A mean over the scored ones; how many are not is an event of its own.
            known = [v for v in values[name] if v is not None]
            entry[name] = sum(known) / len(known) if known else None
            entry[f"{name}_change"] = (
                paired_difference(values[name], first[name]).to_json() if self.entries and known else None
            )
        entry["gold_error"] = error_level(entry["gold_change"], len(self.entries))
        self.entries.append(entry)
        if self.path is not None:
            append_lines(self.path, [entry])
        return entry

    def best(self) -> int | None:
        """Step of the best mean gold score, the earliest among equals."""
        known = [(e["gold"], -e["step"]) for e in self.entries if e["gold"] is not None]
        return -max(known)[1] if known else None

    def hacked(self) -> bool:
        """Proxy up and gold's paired change significantly down, in the last evaluations in a row."""
        recent = self.entries[1:][-MARGIN_STEPS:]
        return len(recent) == MARGIN_STEPS and all(diverges(e) for e in recent)


def diverges(entry: dict[str, Any]) -> bool:
    """Proxy above its start while gold is shown to lie below its own."""
    gold, proxy = entry.get("gold_change"), entry.get("proxy_change")
    # The first evaluation has nothing to be compared with.
    if not gold or not proxy:
        return False
    # Not the mean decides: a few prompts may fall by chance, and each evaluation is another chance.
    error = entry["gold_error"]
    return error is not None and error <= ERROR and (Estimate(**proxy).value or 0) > 0


def error_level(change: Mapping[str, Any] | None, look: int) -> float | None:
    """At which error level, over all evaluations of a run, this one shows that gold has fallen.

    Args:
        change: the paired difference to the first evaluation.
        look: how many evaluations had such a difference, this one included.

    Returns:
        The p-value as many times as this look's part fits into the whole; None without an interval.
    """
    high = None if change is None else change["ci_high"]
    if change is None or high is None:
        return None
    part = (1 - level_of_look(look)) / (1 - LEVEL)
    # A change that is not below zero shows no fall, however short its interval.
    return min(1.0, one_sided_p(change["value"], high, 0.0) / part) if change["value"] < 0 else 1.0
