"""Negative preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.batch import Batch, Mean, Needs
from kilter.objectives.registry import method
from kilter.objectives.unpaired.judged import Judged


@method("npo")
@dataclass(frozen=True)
class NPO(Judged):
    """Unlearning: DPO with only the rejected half.

        L = -2/beta mean log sigmoid(-beta D),   D = l - l_ref

    Desirable answers in the data are left out. beta -> 0 is gradient ascent on the likelihood loss. Paper:
    Zhang et al. 2024, "Negative preference optimization: from catastrophic collapse to effective unlearning".

    Use: prompts with answers that must not be given, and no better answer at hand; mix with sft to keep the
    rest. Watch: logps/rejected falls and then levels off; the alignment tax. Fails: without a retaining term
    the model loses general skill.
    """

    @property
    def needs(self) -> Needs:
        """The needs of the base, with undesired answers alone."""
        return replace(
            super().needs, labels=frozenset({0}), metrics=frozenset({"rewards/rejected", "logps/rejected"})
        )

    def answer_loss(
        self, reward_B: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Mean], dict[str, Tensor] | None]:
        """-(2 / beta) ls(-r)."""
        return -2 / self.beta * logsigmoid(-reward_B), {}, None
