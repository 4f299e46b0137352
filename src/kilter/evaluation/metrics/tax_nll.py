"""What alignment cost elsewhere: how well a model still predicts demonstrations of other skills."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "tax_nll",
    title="Nats per token on other skills",
    short="Tax",
    unit="nats per token",
    better="lower",
    over=("demonstrations",),
    guards="tax",
)
class TaxNLL:
    """Negative log-likelihood per token of the tax set's demonstrations.

    Ouyang et al. (2022) call its rise the alignment tax.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """Nats per token; unscored where the demonstration cannot be encoded."""
        return item.nll
