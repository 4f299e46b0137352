"""What a step's rollouts look like in numbers; names and definitions as in TRL's GRPO trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from kilter.batch import Metrics
from kilter.types import Completion, Group

FLAT = 1e-8
"""Deviation below which the scores of a group count as equal."""


class Answer(NamedTuple):
    """What is measured of one completion."""

    score: float | None
    parts: Mapping[str, float]
    length: int
    finish: str | None
    surprise: float


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """Lengths, endings, entropy and scores over the policy's scored answers; empty without any."""
    rows = [_answers(g) for g in groups]
    answers = [a for row in rows for a in row]
    if not answers:
        return {}
    lengths = [a.length for a in answers]
    ended = [a.length for a in answers if a.finish == "stop"]
    scored = [a.score for a in answers if a.score is not None]
    found: Metrics = {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": fmean([a.finish == "length" for a in answers]),
        "feedback/unscored": 1 - len(scored) / len(answers),
        "entropy": sum(a.surprise for a in answers) / max(1, sum(lengths)),
    }
    # A mean over nothing is missing, not zero: each block is left out where it has no answer to stand on.
    if ended:
        found |= {
            "completions/mean_terminated_length": fmean(ended),
            "completions/min_terminated_length": min(ended),
            "completions/max_terminated_length": max(ended),
        }
    if scored:
        found |= {"reward": fmean(scored), "reward_std": _std(scored)}
    return found | _within_groups(rows) | _by_part(answers)


def staleness_metrics(groups: Sequence[Group], version: int, ahead: bool = False) -> Metrics:
    """How many updates behind the weights were that drew the tokens of a step; empty without spans.

    Args:
        groups: of the step.
        version: updates that the learner had taken when the step began.
        ahead: whether answers without spans count as well, each with the one version that drew all of it.
    """
    answers = [c for g in groups for c in g.completions]
    spans = [span for c in answers for span in (c.versions or (_whole(c) if ahead else ()))]
    tokens = sum(end - start for start, end, _ in spans)
    if not tokens:
        return {}
    # Every token counts once: a long answer is as stale as its tokens are.
    behind = sum((end - start) * (version - drawn) for start, end, drawn in spans)
    return {
        "async/staleness_mean": behind / tokens,
        "async/staleness_max": float(max(version - drawn for start, end, drawn in spans if end > start)),
    }


def _whole(completion: Completion) -> tuple[tuple[int, int, int], ...]:
    """One span over all tokens; none where nobody knows whose they are."""
    version = completion.policy_version
    return () if version is None else ((0, len(completion.token_ids or ()), version),)


def _answers(group: Group) -> list[Answer]:
    return [
        Answer(f.score, f.parts, len(c.token_ids or ()), c.finish_reason, _surprise(c))
        for c, f in zip(group.completions, group.feedback, strict=True)
    ]


def _within_groups(rows: Sequence[Sequence[Answer]]) -> Metrics:
    """The spread of the scores among the answers to one prompt."""
    scores = [[a.score for a in row if a.score is not None] for row in rows]
    within = [_std(row) for row in scores if len(row) > 1]
    if not within:
        return {}
    return {
        "reward_std_within_group": fmean(within),
        "frac_reward_zero_std": fmean([s < FLAT for s in within]),
    }


def _by_part(answers: Sequence[Answer]) -> Metrics:
    """Mean and deviation of every term of a summed score."""
    found: Metrics = {}
    for name in sorted({name for a in answers for name in a.parts}):
        values = [a.parts[name] for a in answers if name in a.parts]
        found |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": _std(values)}
    return found


def _surprise(completion: Completion) -> float:
    """Entropy times tokens, in nats: the sampler's, else estimated from the sampled log-probs."""
    if completion.entropy is not None:
        return completion.entropy * len(completion.token_ids or ())
    return -sum(completion.sampling_logps or ())


def _std(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
