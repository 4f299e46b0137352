"""What choosing among n answers by a reward model is worth: an outcome or a process reward model alike."""

from dataclasses import dataclass

from kilter.errors import UserError
from kilter.evaluation.best_of import best_of
from kilter.evaluation.metrics.best_of import scored_list
from kilter.evaluation.metrics.categories import categories
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "best_of_n",
    key="best_of_{n}",
    title="Best of {n} by reward, gold score",
    unit="score 0-1",
    better="higher",
    aggregate="mean",
    needs={"samples", "gold", "reward"},
)
@dataclass(frozen=True)
class BestOfN:
    """Expected gold score of the answer that the reward model likes best among n; n = 1 is a plain answer.

    samples: answers per prompt, at least n.
    """

    n: int = 4
    samples: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.samples:
            raise UserError(
                "metrics.best_of_n.n",
                self.n,
                f"does not lie between 1 and the number of samples, {self.samples}.",
                f"Give at most {self.samples}, or raise samples.",
            )

    def per_prompt(self, item: Answered) -> float | None:
        """Unscored where fewer than n answers have both scores."""
        both = zip(item.feedback.get("reward", ()), item.feedback.get("gold", ()), strict=False)
        known = [(r.score, g.score) for r, g in both if r.score is not None and g.score is not None]
        if len(known) < self.n:
            return None
        return best_of(self.n, [r for r, _ in known], [g for _, g in known])


@metric(
    "reward_model.best_of_n",
    key="reward_model.best_of_{n}",
    title="Reward-model accuracy, best of {n}",
    unit="share of lists",
    better="higher",
    aggregate="rate",
    needs={"reward"},
    over=("lists",),
    slices=categories,
    paired=False,
)
@dataclass(frozen=True)
class ListBestOfN:
    """Probability that the answer with the highest score is right, of n answers of a list drawn at random."""

    n: int = 4

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored where an answer is, and of a list of fewer than n."""
        found = scored_list(item)
        if found is None or len(found[0]) < self.n:
            return None
        return best_of(self.n, found[0], [float(right) for right in found[1]])
