"""What losses on groups share: every group weighs the same, and some add imitation of the best answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Loss, Mean, Outputs
from kilter.objectives.knobs import check
from kilter.objectives.ops import chosen_nll, mean, uniform_group_weights


@dataclass(frozen=True)
class Grouped:
    """Base of pairs and lists: L = mean over groups of their loss, plus imitation() * NLL(best)."""

    name: ClassVar[str] = "grouped"

    def __post_init__(self) -> None:
        check(self)

    def prepare(self, batch: Batch) -> Batch:
        """Every group of the optimizer step weighs the same."""
        return batch.with_(group_weight_N=uniform_group_weights(batch))

    def imitation(self) -> float:
        """Weight of the negative log-likelihood of each group's first answer, per token of the whole step."""
        return 0.0

    def reported(self, own: frozenset[str]) -> frozenset[str]:
        """Names of a member's own metrics, and that of the imitation where it has one."""
        return own | ({"nll"} if self.imitation() > 0 else frozenset())

    def total(self, loss_N: Tensor, out: Outputs, batch: Batch) -> Tensor:
        """Group losses to one number: their weighted sum.

        Members that weigh groups by their loss override it.
        """
        assert batch.group_weight_N is not None
        return (batch.group_weight_N * loss_N).sum()

    def summed(self, loss_N: Tensor, out: Outputs, batch: Batch, metrics: dict[str, Mean]) -> Loss:
        """The loss of a micro-batch, imitation included, with its metrics."""
        value = self.total(loss_N, out, batch)
        if self.imitation() > 0:
            assert out.logps_BT is not None
            value = value + self.imitation() * chosen_nll(out.logps_BT, batch)
            first_BT = batch.mask_BT * batch.first_B()[:, None]
            metrics = metrics | {"nll": mean(-out.logps_BT.masked_fill(first_BT == 0, 0.0), first_BT)}
        return Loss(value, metrics)
