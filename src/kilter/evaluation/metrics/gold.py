"""The score of the gold source: what was wanted, as far as it can be verified."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric("gold", title="Gold score", unit="score 0-1", better="higher", needs={"gold"})
class Gold:
    """Score of the first answer; unscored where the source has nothing to say."""

    def per_prompt(self, item: Answered) -> float | None:
        """In the source's own unit, 0 to 1 for a verifier."""
        return item.score("gold")
