"""How often a model grants a claim that its rules decline."""

from kilter.data.worlds.registry import labels_of
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "wrong_approvals",
    title="Wrong approvals",
    unit="share of claims to decline",
    better="lower",
    aggregate="proportion",
    needs={"gold"},
    subset=lambda prompt: labels_of(prompt).grant is False and not labels_of(prompt).safety,
)
class WrongApprovals:
    """Share of granted answers among the claims to decline. Unsafe requests count as violations."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 granted, 0 declined or no decision; unscored where the gold source reads no verdict."""
        return item.part("gold", "approved")
