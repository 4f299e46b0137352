"""How varied the answers are: distinct n-grams over n-grams (Li et al. 2016), at a fixed number of words."""

from collections.abc import Sequence

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

BUDGET = 1000
"""Words over which it is taken; without a fixed budget a longer text looks less diverse than a short one."""


class Distinct:
    """Distinct n-grams over n-grams in the first `budget` words of all answers. None spans two answers."""

    n: int
    budget = BUDGET

    def over_corpus(self, items: Sequence[Answered]) -> tuple[float | None, str]:
        """The share, and over how many words; a text below the budget is said to be one."""
        grams: list[tuple[str, ...]] = []
        used = 0
        for item in items:
            words = item.answers[0].text.split()[: self.budget - used]
            used += len(words)
            grams += [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
            if used >= self.budget:
                break
        note = f"first {used} words"
        if used < self.budget:
            note += f" (fewer than the budget of {self.budget}; compare only equal sizes)"
        return len(set(grams)) / len(grams) if grams else None, note


@metric("distinct_1", title="Distinct 1-grams", unit="share", better="higher", aggregate="corpus")
class Distinct1(Distinct):
    """Share of different words among all words of the answers."""

    n = 1


@metric("distinct_2", title="Distinct 2-grams", unit="share", better="higher", aggregate="corpus")
class Distinct2(Distinct):
    """Share of different word pairs among all neighbouring words of the answers."""

    n = 2
