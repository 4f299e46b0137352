"""How many prompts are solved when k answers may be given: pass@k, unbiased (Chen et al. 2021, eq. 1)."""

import math
from dataclasses import dataclass

from kilter.errors import UserError
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


def pass_at(k: int, n: int, correct: int) -> float:
    """Probability that at least one of k answers, drawn from n of which `correct` are right, is right.

    1 - C(n - c, k) / C(n, k): unbiased, unlike 1 - (1 - c/n)^k.
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@metric(
    "pass_at_k",
    key="pass_at_{k}",
    title="pass@{k} by gold",
    unit="probability",
    better="higher",
    aggregate="rate",
    needs={"samples", "gold"},
)
@dataclass(frozen=True)
class PassAtK:
    """pass@k by the gold source.

    samples: answers per prompt, at least k. threshold: the score from which an answer is right.
    """

    k: int = 4
    samples: int = 8
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.samples:
            raise UserError(
                "metrics.pass_at_k.k",
                self.k,
                f"does not lie between 1 and the number of samples, {self.samples}.",
                f"Give at most {self.samples}, or raise samples.",
            )

    def per_prompt(self, item: Answered) -> float | None:
        """Unscored where fewer than k answers have a score; unscored answers are neither right nor wrong."""
        scores = [f.score for f in item.feedback.get("gold", ()) if f.score is not None]
        if len(scores) < self.k:
            return None
        return pass_at(self.k, len(scores), sum(s >= self.threshold for s in scores))
