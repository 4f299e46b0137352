"""How far a model has moved from the baseline, per token: an estimate that is never negative."""

import math

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered

LARGEST = 50.0
"""Log-ratio beyond which a token counts as this far, so that one token cannot overflow the mean."""


@metric(
    "kl_token_k3",
    title="KL per token (k3)",
    unit="nats / token",
    better=None,
    needs={"logps", "reference_logps"},
    on_policy=True,
    judge="k3",
    paired=False,
)
class KLTokenK3:
    """Token mean of r - 1 - log r with r = pi_ref / pi (Schulman 2020)."""

    def per_prompt(self, item: Answered) -> float | None:
        """Nats per token; unscored for an empty answer."""
        if item.logps is None or item.reference_logps is None:
            return None
        pairs = zip(item.logps, item.reference_logps, strict=True)
        ratios = [min(reference - own, LARGEST) for own, reference in pairs]
        return math.fsum(math.exp(r) - 1 - r for r in ratios) / len(ratios) if ratios else None
