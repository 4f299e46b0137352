"""What is measured on a model's answers; each function takes one value per prompt or returns one Metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kilter.statistics import Metric, mean
from kilter.types import Completion

DISTINCT_BUDGET = 1000
"""Words over which distinct-n is taken; without a fixed budget a longer text looks less diverse than a short one."""


def distinct_n(texts: Sequence[str], n: int, budget: int = DISTINCT_BUDGET) -> Metric:
    """Distinct n-grams / n-grams over the first `budget` words of all answers (Li et al. 2016, at fixed size).

    A corpus statistic: it has no per-prompt values, so it carries no CI. None when the answers hold fewer words.
    """
    grams: list[tuple[str, ...]] = []
    used = 0
    for text in texts:
        words = text.split()[: budget - used]
        used += len(words)
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if used >= budget:
            break
    label = f"first {used} words"
    if used < budget:
        label += f" (fewer than the budget of {budget}; compare only equal sizes)"
    value = len(set(grams)) / len(grams) if grams else None
    return Metric(value, len(texts), method=label, unit="share", higher_is_better=True)


def kl_k1(
    policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], seed: int, **extra: Any
) -> Metric:
    """KL(policy || reference) per sequence, nats: mean over answers of sum_t (log pi - log pi_ref), unbiased at temperature 1."""
    values: list[float | None] = [math.fsum(a) - math.fsum(b) for a, b in zip(policy, reference, strict=True)]
    return mean(values, seed, unit="nats / answer", judge="k1", **extra)


def kl_k3(
    policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], seed: int, **extra: Any
) -> Metric:
    """KL per token, nats: mean over answers of the token mean of r - 1 - log r, r = pi_ref / pi (Schulman 2020)."""
    values: list[float | None] = []
    for a, b in zip(policy, reference, strict=True):
        ratio = [min(y - x, 50.0) for x, y in zip(a, b, strict=True)]
        values.append(math.fsum(math.exp(r) - 1 - r for r in ratio) / len(ratio) if ratio else None)
    return mean(values, seed, unit="nats / token", judge="k3", **extra)


def truncated(completions: Sequence[Completion]) -> list[bool | None]:
    """Whether an answer ran into the token limit."""
    return [c.finish_reason == "length" for c in completions]
