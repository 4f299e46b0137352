"""How undecided a model is while it writes: a collapsed policy has hardly any entropy left."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric("entropy", title="Entropy", unit="nats / token", better=None, needs={"entropy"}, on_policy=True)
class Entropy:
    """Mean over the tokens of an answer of the entropy of the policy's distribution at temperature 1.

    It is computed from the logits, not estimated from the log-probs of the tokens drawn.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """Nats per token; unscored without the model's weights, and of an empty answer."""
        return item.entropy
