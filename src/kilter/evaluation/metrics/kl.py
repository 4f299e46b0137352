"""How far a model has moved from the baseline, per answer: KL(model || baseline) by its own samples."""

import math

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "kl",
    title="KL to the baseline",
    short="KL",
    unit="nats / answer",
    better=None,
    needs={"logps", "reference_logps"},
    on_policy=True,
    judge="k1",
)
class KL:
    """sum_t (log pi - log pi_ref) of an answer: k1 of Schulman (2020).

    Unbiased at temperature 1, and of either sign for a single answer.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """log pi - log ref of the answer, in nats; None without log-probs of both models."""
        if item.logps is None or item.reference_logps is None:
            return None
        return math.fsum(item.logps) - math.fsum(item.reference_logps)
