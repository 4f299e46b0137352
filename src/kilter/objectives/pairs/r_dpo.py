"""Length-regularised DPO."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("r_dpo")
@dataclass(frozen=True)
class RDPO(Pairwise):
    """DPO with the length of the answers as part of the reward, so that the policy need not learn it.

        L = -log sigmoid(z + alpha (|w| - |l|))

    z is DPO's, |y| counts trained tokens. Paper: Park et al. 2024, "Disentangling length from quality in
    direct preference optimization".

    Use: the audit reports a length bias (chosen longer). Watch: length of sampled answers. Fails: alpha too
    high makes answers terse.
    """

    alpha: float = knob(
        0.01, "reward per token of length difference that is explained away", "[0, inf)", "0.005 to 0.1"
    )

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-ls(z + alpha (|w| - |l|))."""
        return -logsigmoid(self.margin(w, l) + self.alpha * (w.tokens_N - l.tokens_N))
