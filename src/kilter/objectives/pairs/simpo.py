"""SimPO: length-normalised rewards without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("simpo")
@dataclass(frozen=True)
class SimPO(Pairwise):
    """The reward is the mean log-prob, as in generation, and must differ by a margin.

        L = -log sigmoid(beta lbar(w) - beta lbar(l) - gamma)

    lbar in nats per token. No reference. Paper: Meng et al. 2024, "SimPO", eq. 6.

    Use: length bias in dpo, or no memory for a reference. Watch: logps/chosen, since nothing holds the policy
    back. Fails: with a high learning rate it degenerates into repetition; keep it at 1e-6 or below for full
    training of large models.
    """

    beta: float = knob(2.0, "scale of the mean log-prob", "(0, inf)", "2 to 10")
    gamma: float = knob(1.0, "margin in units of the reward", "[0, inf)", "0.3 to 0.5 of beta")

    uses_reference: ClassVar[bool] = False
    rate: ClassVar[float] = 1e-6

    @property
    def per_token(self) -> bool:
        """The reward is beta lbar."""
        return True

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-ls(z - gamma)."""
        return -logsigmoid(self.margin(w, l) - self.gamma)
