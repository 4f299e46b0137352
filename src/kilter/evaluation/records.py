"""What is known of each prompt once everything was asked and scored: the records that metrics look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kilter.evaluation.asking import ModelAnswers
from kilter.evaluation.scoring import Scores
from kilter.evaluation.suites import Suite
from kilter.types import Answered, Feedback, Group

Records = dict[str, list[Answered]]
"""prompts, probes, demonstrations -> one record per prompt"""


def records(suite: Suite, said: ModelAnswers, scores: Scores) -> Records:
    """Everything that is known of one model, by the prompts that were asked."""
    prompts = [
        Answered(
            prompt,
            said.prompts[i],
            {source: rows[i] for source, rows in scores.items()},
            None if said.logps is None else said.logps[i],
            None if said.reference_logps is None else said.reference_logps[i],
        )
        for i, prompt in enumerate(suite.prompts)
    ]
    probes = [Answered(p, answers) for p, answers in zip(suite.probes, said.probes, strict=True)]
    demonstrations = [
        Answered(g.prompt, g.completions, nll=nll) for g, nll in zip(suite.tax, said.nll, strict=True)
    ]
    return {"prompts": prompts, "probes": probes, "demonstrations": demonstrations}


def beside(items: Sequence[Answered], baseline: Sequence[Answered]) -> list[Answered]:
    """Each record with the baseline's record of the same prompt, where the baseline has an answer to it."""
    return [
        replace(item, baseline=base if base.answers else None)
        for item, base in zip(items, baseline, strict=True)
    ]


def of_pairs(pairs: Sequence[Group], feedback: Sequence[Sequence[Feedback]]) -> list[Answered]:
    """Held-out pairs as a reward model scored them: the chosen answer first."""
    return [
        Answered(g.prompt, g.completions, {"reward": tuple(f)}) for g, f in zip(pairs, feedback, strict=True)
    ]
