"""How often an answer ends because the tokens do."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "truncated",
    title="Cut at the token limit",
    unit="share",
    better="lower",
    aggregate="proportion",
    paired=False,
)
class Truncated:
    """Share of answers that ran into max_new_tokens."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 cut, 0 ended by itself."""
        return float(item.answers[0].finish_reason == "length")
