"""The cheap signals of one step: pure functions of its rollouts, so that an old run can be watched again."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from kilter.evaluation.classifiers import refuses
from kilter.feedback.shaping import repeated_share
from kilter.training.sources.measure import FLAT
from kilter.types import Completion, Group

BY_PROMPT = ("frac_reward_zero_std", "reward/at_maximum", "duplicates", "repetition")
"""Signals of `shares` that only warn."""

_MARKDOWN = re.compile(r"^\s*(?:[-*] |#+ |\d+\. )|\*\*|```", re.MULTILINE)


def signals(groups: Sequence[Group], seen: tuple[float, float] | None = None) -> dict[str, float]:
    """The signals of one step's groups.

    They are length p50 and p95 (tokens), Spearman(reward, length), and shares: at the reward maximum,
    duplicates, repeated 4-grams, refusals, markdown.

    seen: lowest and highest score of the run so far, which give the maximum; default: of these groups.
    """
    completions = [c for g in groups for c in g.completions]
    if not completions:
        return {}
    lengths = np.array([_length(c) for c in completions])
    scored = [pair for g in groups for pair in _scored(g)]
    found = {
        "length/p50": float(np.quantile(lengths, 0.5)),
        "length/p95": float(np.quantile(lengths, 0.95)),
        "repetition": float(np.mean([repeated_share(c.token_ids or c.text.split(), 4) for c in completions])),
        "duplicates": _duplicates(groups),
        "refusal": float(np.mean([refuses(c.text) for c in completions])),
        "markdown": float(np.mean([bool(_MARKDOWN.search(c.text)) for c in completions])),
    }
    if scored:
        reward = np.array([s for s, _ in scored])
        low, high = seen or (reward.min(), reward.max())
        if high > low:  # scores that have all been one number have no maximum to be at
            found["reward/at_maximum"] = float(np.mean(reward >= high - 1e-9))
        # A rank correlation of fewer answers, or of one score, would be noise.
        if len(scored) >= 8 and np.ptp(reward) > 0 and np.ptp([n for _, n in scored]) > 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found["reward_length_correlation"] = float(
                    stats.spearmanr(reward, [n for _, n in scored]).statistic
                )
    return found


def shares(groups: Sequence[Group], seen: tuple[float, float]) -> dict[str, list[float]]:
    """Shares of the answers to each prompt, one number per prompt, under the names of the steps' signals.

    A prompt is one observation: its answers are like each other.

    seen: lowest and highest score of the run so far.
    """
    groups = [g for g in groups if g.completions]
    found: dict[str, list[float]] = {
        "completions/clipped_ratio": [
            _share(c.finish_reason == "length" for c in g.completions) for g in groups
        ],
        "feedback/unscored": [_share(f.score is None for f in g.feedback) for g in groups],
        "duplicates": [_duplicates([g]) for g in groups],
        "repetition": [
            float(np.mean([repeated_share(c.token_ids or c.text.split(), 4) for c in g.completions]))
            for g in groups
        ],
    }
    # What a score says is known of those that have one.
    scores = [[f.score for f in g.feedback if f.score is not None] for g in groups]
    found["frac_reward_zero_std"] = [float(np.std(s) < FLAT) for s in scores if len(s) > 1]
    found["reward_length_correlation"] = _longer_wins(groups)
    if seen[1] > seen[0]:
        found["reward/at_maximum"] = [_share(s >= seen[1] - 1e-9 for s in own) for own in scores if own]
    return found


def _length(completion: Completion) -> float:
    """Tokens where they are known; words of an old log that holds text alone."""
    return float(len(completion.token_ids or completion.text.split()))


def _scored(group: Group) -> list[tuple[float, float]]:
    """Scores beside lengths: unscored answers say nothing of what pays."""
    both = zip(group.feedback, group.completions, strict=True)
    return [(f.score, _length(c)) for f, c in both if f.score is not None]


def _longer_wins(groups: Sequence[Group]) -> list[float]:
    """How often the longer of two answers scores higher, where both differ: one share for each prompt.

    Prompts with one answer each are compared two by two, so that no answer counts twice.
    """
    scored = list(map(_scored, groups))
    alone = [own[0] for own in scored if len(own) == 1]
    sets = [own for own in scored if len(own) > 1] + [list(two) for two in zip(alone[::2], alone[1::2])]
    found = []
    for own in sets:
        pairs = [(a, b) for a, b in combinations(own, 2) if a[0] != b[0] and a[1] != b[1]]
        if pairs:
            found.append(_share((a[0] > b[0]) == (a[1] > b[1]) for a, b in pairs))
    return found


def _share(holds: Iterable[bool]) -> float:
    return float(np.mean(list(holds)))


def answers(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """(prompt, answer) of each answer; a prompt is what tells it from another one."""
    asked = [g.prompt.text or "\n".join(m["content"] for m in g.prompt.messages) for g in groups]
    return [(prompt, c.text) for prompt, g in zip(asked, groups, strict=True) for c in g.completions]


def _duplicates(groups: Sequence[Group]) -> float:
    """Share of completions that repeat another one of the same prompt."""
    total = sum(len(g.completions) for g in groups)
    distinct = sum(len(Counter(c.text for c in g.completions)) for g in groups)
    return 1 - distinct / total
