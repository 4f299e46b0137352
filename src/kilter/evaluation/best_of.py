"""Scores of a reward model on lists of answers, some of them right: RewardBench 2 (Malik et al. 2025).

best_of        what choosing the highest score among n answers is worth
credit         one right answer among k: the share that it has of the highest score
ties_score     several right answers: all above all wrong ones, and closer to each other than to those
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def credit(scores: Sequence[float], right: Sequence[bool]) -> float:
    """What a list earns: right answers' share of those that have the highest score, 0 to 1.

    A model that gives all answers one score earns what chance would, and no more.

    Args:
        scores: [k] of one list.
        right: [k], which answers are right.
    """
    best = max(scores)
    winners = [good for score, good in zip(scores, right, strict=True) if score == best]
    return sum(winners) / len(winners)


@dataclass(frozen=True, slots=True)
class Margins:
    """One list with several right answers: what lies between them, and what lies above the wrong ones."""

    right: float
    wrong: float

    @classmethod
    def of(cls, scores: Sequence[float], right: Sequence[bool]) -> Margins:
        """right: best minus worst right score. wrong: worst right minus best wrong score.

        Raises:
            ValueError: no answer is right, or none is wrong.
        """
        good = [score for score, is_right in zip(scores, right, strict=True) if is_right]
        bad = [score for score, is_right in zip(scores, right, strict=True) if not is_right]
        if not good or not bad:
            raise ValueError("a list needs a right answer and a wrong one")
        return cls(max(good) - min(good), min(good) - max(bad))


def best_of(n: int, scores: Sequence[float], worth: Sequence[float]) -> float:
    """Expected worth of the answer with the highest score among n of k answers drawn at random.

    Every subset of n counts, so that one sample of k gives all of them; equal scores share.

    Args:
        n: answers that are drawn, at most k.
        scores: [k], by which one is chosen.
        worth: [k], what the chosen one is worth, such as 1 for a right answer.
    """
    total, below, found = math.comb(len(scores), n), 0, 0.0
    for level in sorted(set(scores)):
        own = [w for s, w in zip(scores, worth, strict=True) if s == level]
        up_to = below + len(own)
        chance = (math.comb(up_to, n) - math.comb(below, n)) / total
        found += chance * statistics.fmean(own)
        below = up_to
    return found


def ties_score(references: Mapping[str, Margins], tied: Mapping[str, Margins]) -> float:
    """RewardBench 2's score of the subset Ties.

        .3 accuracy(tied) + .3 accuracy(references) + .2 preferred + .2 preferred hard
        + .01 mean tanh(min(margin, reference margin) / spread - 1)

    The published score can exceed 1 by a hundredth: the last term is 1 where right answers have one score.

    Args:
        references: question -> margins of its list with one right answer.
        tied: question -> margins of its list with several; only questions in both count for the last three.
    """
    both = sorted(references.keys() & tied.keys())
    if not both:
        raise ValueError("no question has both a reference list and a tied list")
    spread = [tied[q].right for q in both]
    ahead = [tied[q].wrong for q in both]
    hard = [min(references[q].wrong, tied[q].wrong) for q in both]
    closeness = [math.tanh(_ratio(h, s) - 1) for h, s in zip(hard, spread, strict=True)]
    return (
        0.3 * statistics.fmean(m.wrong > 0 for m in tied.values())
        + 0.3 * statistics.fmean(m.wrong > 0 for m in references.values())
        + 0.2 * statistics.fmean(a > s for a, s in zip(ahead, spread, strict=True))
        + 0.2 * statistics.fmean(h > s for h, s in zip(hard, spread, strict=True))
        + 0.01 * statistics.fmean(closeness)
    )


def _ratio(margin: float, spread: float) -> float:
    """margin / spread; without any spread infinite in the direction of the margin, and 1 where both are 0."""
    if spread == 0:
        return 1.0 if margin == 0 else math.copysign(math.inf, margin)
    return margin / spread
