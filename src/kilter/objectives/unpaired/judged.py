"""What methods for judged single answers share: labels, implicit rewards, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Loss, Mean, Needs, Outputs, Unit
from kilter.objectives.knobs import check, knob
from kilter.objectives.ops import log_ratios, mean, sequence_logps


def desirable(batch: Batch) -> Tensor:
    """[B] bool: the answer was judged good (score above 0)."""
    return batch.score_B > 0


@dataclass(frozen=True)
class Judged(ABC):
    """Base of the family: L = mean over answers of answer_loss(r), r = beta (l - l_ref) in nats."""

    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")

    name: ClassVar[str] = "judged"
    unit: ClassVar[Unit] = "row"

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """Labelled single answers, with the reference's log-probs."""
        return Needs(
            shape="unpaired",
            unit=self.unit,
            annotations=frozenset({"ref_logps"}),
            learning_rate=5e-6,
            metrics=frozenset({"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"}),
        )

    def prepare(self, batch: Batch) -> Batch:
        """Nothing to write: every answer of the optimizer step weighs the same."""
        return batch

    @abstractmethod
    def answer_loss(
        self, reward_B: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Mean], dict[str, Tensor] | None]:
        """(loss of each answer [B], further metrics, state for the next step)."""

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Sum of answer losses over the answers of the optimizer step."""
        assert out.logps_BT is not None
        logps_B = sequence_logps(out.logps_BT, batch.mask_BT)
        reward_B = self.beta * log_ratios(out.logps_BT, batch.ref_logps_BT, batch.mask_BT)
        loss_B, metrics, state = self.answer_loss(reward_B, batch)
        good_B = desirable(batch).float()
        by_label = {
            "rewards/chosen": mean(reward_B, good_B),
            "rewards/rejected": mean(reward_B, 1 - good_B),
            "logps/chosen": mean(logps_B, good_B),
            "logps/rejected": mean(logps_B, 1 - good_B),
        }
        # A method that learns from one label alone has no mean over the other.
        metrics |= {name: value for name, value in by_label.items() if name in self.needs.metrics}
        return Loss(loss_B.sum() / batch.n_rows_total, metrics, state)


def balanced(good: int, bad: int) -> tuple[float, float]:
    """(desirable, undesirable) weights with which both kinds weigh the same in sum.

    The rarer kind is raised, and the other is never lowered.
    """
    if good == 0 or bad == 0:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)
