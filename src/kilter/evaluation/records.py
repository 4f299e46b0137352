"""What is known of each prompt once everything was asked and scored: the records that metrics look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kilter.evaluation.asking import ModelAnswers
from kilter.evaluation.scoring import Scores
from kilter.evaluation.suites import Suite
from kilter.types import Answered, Feedback, Group

Records = dict[str, list[Answered]]
"""prompts, probes, tasks, demonstrations, pairs -> one record per prompt"""


def records(suite: Suite, said: ModelAnswers, scores: Scores) -> Records:
    """Everything that is known of one model, by the prompts that were asked."""
    prompts = [
        Answered(
            prompt,
            said.prompts[i],
            {source: rows[i] for source, rows in scores.items()},
            None if said.logps is None else said.logps[i],
            None if said.reference_logps is None else said.reference_logps[i],
            follow_ups=said.follow_ups[i] if said.follow_ups else {},
            entropy=None if said.entropy is None else said.entropy[i],
        )
        for i, prompt in enumerate(suite.prompts)
    ]
    prompts = with_twins(prompts)
    probes = [Answered(p, answers) for p, answers in zip(suite.probes, said.probes, strict=True)]
    tasks = [Answered(p, answers) for p, answers in zip(suite.tasks, said.tasks, strict=True)]
    demonstrations = [
        Answered(g.prompt, g.completions, nll=nll) for g, nll in zip(suite.tax, said.nll, strict=True)
    ]
    known = said.pair_logps or [None] * len(suite.pairs)
    pairs = [
        Answered(g.prompt, g.completions, pair_logps=logps)
        for g, logps in zip(suite.pairs, known, strict=True)
    ]
    return {
        "prompts": prompts,
        "probes": probes,
        "tasks": tasks or prompts,
        "demonstrations": demonstrations,
        "pairs": pairs,
    }


def with_twins(items: Sequence[Answered]) -> list[Answered]:
    """Each record with that of its twin: the other prompt of the same name in metadata["twins"]."""
    together: dict[str, list[Answered]] = {}
    for item in items:
        together.setdefault(str(item.prompt.metadata.get("twins", "")), []).append(item)
    together.pop("", None)
    pairs = {id(a): b for both in together.values() if len(both) == 2 for a, b in (both, both[::-1])}
    return [replace(item, twin=pairs.get(id(item))) for item in items]


def beside(items: Sequence[Answered], baseline: Sequence[Answered]) -> list[Answered]:
    """Each record with the baseline's record of the same prompt, where the baseline has an answer to it."""
    return [
        replace(item, baseline=base if base.answers else None)
        for item, base in zip(items, baseline, strict=True)
    ]


def of_pairs(pairs: Sequence[Group], feedback: Sequence[Sequence[Feedback]]) -> list[Answered]:
    """Held-out pairs as a reward model scored them: the chosen answer first."""
    return [
        Answered(g.prompt, g.completions, {"reward": tuple(f), "label": g.feedback})
        for g, f in zip(pairs, feedback, strict=True)
    ]
