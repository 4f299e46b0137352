"""Shaping terms: length and repetition. They see tokens where there are any, words otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from kilter.errors import UserError
from kilter.feedback.registry import feedback_sources
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group


def _units(completion: Completion) -> Sequence[object]:
    return completion.token_ids if completion.token_ids is not None else completion.text.split()


@feedback_sources.register("length")
class SoftOverlong(FeedbackSource):
    """Penalty for length: 0 up to limit - buffer tokens, falling to -1 at the limit and beyond.

    Paper: Yu et al. 2025 (DAPO), eq. 13.
    """

    def __init__(self, limit: int, buffer: int) -> None:
        if not 0 < buffer <= limit:
            raise UserError(
                "feedback.length.buffer",
                buffer,
                f"must lie between 1 and the limit ({limit})",
                "use a fifth of the limit",
            )
        self.limit, self.buffer = limit, buffer

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""

        def score(c: Completion) -> float:
            over = len(_units(c)) - (self.limit - self.buffer)
            return 0.0 if over <= 0 else max(-1.0, -over / self.buffer)

        return [[Feedback(score(c), "shaping", source="length") for c in g.completions] for g in groups]


@feedback_sources.register("repetition")
class Repetition(FeedbackSource):
    """Minus the share of n-grams that are repeats: 0 for none, towards -1 for a loop.

    Paper: Yeo et al. 2025.
    """

    def __init__(self, n: int = 4) -> None:
        if n < 1:
            raise UserError("feedback.repetition.n", n, "must be at least 1", "use 4")
        self.n = n

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return [
            [
                Feedback(-repeated_share(_units(c), self.n), "shaping", source="repetition")
                for c in g.completions
            ]
            for g in groups
        ]


def repeated_share(units: Sequence[object], n: int) -> float:
    """1 - distinct n-grams / n-grams; 0 for fewer than n units."""
    units = tuple(units)
    grams = [units[i : i + n] for i in range(len(units) - n + 1)]
    return 0.0 if not grams else 1 - len(set(grams)) / len(grams)
