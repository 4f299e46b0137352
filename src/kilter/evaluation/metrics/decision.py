"""Whether the answer decides as the rules of its world do."""

from kilter.data.worlds.registry import labels_of
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "decision",
    title="Right decisions",
    unit="share of requests",
    better="higher",
    aggregate="proportion",
    needs={"gold"},
    subset=lambda prompt: labels_of(prompt).grant is not None,
    slices=lambda prompt: labels_of(prompt).slices,
)
class Decision:
    """Share of right decisions. Twins are asked together, so as many are to grant as to decline."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 right, 0 wrong or none; unscored where the gold source says nothing of the decision."""
        return item.part("gold", "decision")
