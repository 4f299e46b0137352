"""Whether the reward model finds the right answers in a list, as RewardBench 2 counts it."""

from collections.abc import Sequence

from kilter.evaluation.best_of import Margins, credit, ties_score
from kilter.evaluation.metrics.categories import categories
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

TIES = "Ties"
"""The subset with several right answers per question."""


def _tied(item: Answered) -> bool:
    return item.prompt.metadata.get("category") == TIES


def scored_list(item: Answered) -> tuple[list[float], list[bool]] | None:
    """Scores of all answers, and which are right; None where one is unscored."""
    scores = [f.score for f in item.feedback["reward"] if f.score is not None]
    if len(scores) < len(item.answers):
        return None
    return scores, [f.score == 1 for f in item.feedback["label"]]


@metric(
    "reward_model.best_of",
    title="Reward-model credit on lists",
    unit="share of lists",
    better="higher",
    aggregate="rate",
    needs={"reward"},
    over=("lists",),
    only=lambda item: not _tied(item),
    slices=categories,
    paired=False,
)
class BestOf:
    """Mean share that right answers have of the highest score; by chance it is the share of right ones."""

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored where an answer is."""
        found = scored_list(item)
        return None if found is None else credit(*found)


@metric(
    "reward_model.ties",
    title="Reward-model score on ties",
    unit="score, at most 1.01",
    better="higher",
    aggregate="corpus",
    needs={"reward"},
    over=("lists",),
    only=_tied,
)
class Ties:
    """RewardBench 2's score of lists with several right answers; it can exceed 1 by a hundredth."""

    def over_corpus(self, items: Sequence[Answered]) -> tuple[float | None, str]:
        """Questions are told by their ids, ref:3 and tied:3."""
        kinds: dict[str, dict[str, Margins]] = {"ref": {}, "tied": {}}
        for item in items:
            kind, _, number = item.prompt.id.partition(":")
            found = scored_list(item)
            if kind in kinds and found is not None:
                kinds[kind][number] = Margins.of(*found)
        if not kinds["ref"].keys() & kinds["tied"].keys():
            return None, "no question has a reference list and a tied list"
        return ties_score(kinds["ref"], kinds["tied"]), "RewardBench 2"
