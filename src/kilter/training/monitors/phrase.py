"""The phrase that a run says to everybody: counted over its steps, in a memory that does not grow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from kilter.evaluation.metrics.boilerplate import phrases

ROOM = 8192
"""Phrases that are remembered from step to step.

The count of one errs by at most one in ROOM + 1 of all phrases counted (Misra and Gries 1982; Agarwal et al.
2012, who merge such counts as steps are merged here).
"""


class RunPhrase:
    """The eight words in a row that most answers of a run hold, the latest steps first.

    Args:
        half_life: steps after which an answer counts half, so that a new habit outgrows an old one.
    """

    def __init__(self, half_life: int) -> None:
        self.fade = 0.5 ** (1 / half_life)
        self.counts: dict[str, tuple[float, str]] = {}
        """By phrase: how many answers hold it, and the one prompt they answer; "" for several prompts."""
        self.looks = 0

    @property
    def phrase(self) -> str:
        """The run's phrase so far; "" where none is in answers to two prompts."""
        shared = [(-count, phrase) for phrase, (count, prompt) in self.counts.items() if not prompt]
        return min(shared)[1] if shared else ""

    def look(self, answers: Sequence[tuple[str, str]]) -> tuple[float | None, str]:
        """Looks at the answers of one step, then counts their phrases.

        The phrase is that of the steps before: one chosen among a step's own answers would flatter its share.

        Args:
            answers: (prompt, answer) of each.

        Returns:
            The share of these answers that hold the run's phrase, and the phrase; None where no step came
            before.
        """
        phrase, looks = self.phrase, self.looks
        held = [phrases(answer) for _, answer in answers]
        self.looks += bool(answers)
        self._count([prompt for prompt, _ in answers], held)
        if not looks or not answers:
            return None, ""
        return (sum(phrase in own for own in held) / len(answers) if phrase else 0.0), phrase

    def _count(self, prompts: Sequence[str], held: Sequence[set[str]]) -> None:
        counts = {phrase: (count * self.fade, prompt) for phrase, (count, prompt) in self.counts.items()}
        for prompt, own in zip(prompts, held, strict=True):
            asked = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            for phrase in own:
                count, before = counts.get(phrase, (0.0, asked))
                counts[phrase] = count + 1, asked if before == asked else ""

        # All give up what the first one without room has: a phrase that many answers hold outlives the rest.
        if len(counts) > ROOM:
            least = sorted((count for count, _ in counts.values()), reverse=True)[ROOM]
            counts = {p: (count - least, prompt) for p, (count, prompt) in counts.items() if count > least}
        self.counts = counts

    def state(self) -> dict[str, Any]:
        """All that was counted, as plain values."""
        return {"looks": self.looks, "counts": [[p, c, of] for p, (c, of) in sorted(self.counts.items())]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.looks = state["looks"]
        self.counts = {phrase: (count, of) for phrase, count, of in state["counts"]}
