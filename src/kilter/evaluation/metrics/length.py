"""How long the answers are."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric("length", title="Length", unit="tokens", better=None, guards="length")
class Length:
    """Tokens of the first answer, its end included; neither direction is better."""

    def per_prompt(self, item: Answered) -> float | None:
        """Tokens; unscored where an endpoint gives text alone."""
        tokens = item.answers[0].token_ids
        return None if tokens is None else float(len(tokens))
