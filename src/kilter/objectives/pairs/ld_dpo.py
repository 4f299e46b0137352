"""Length-desensitised DPO."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.ops import pairs, sequence_logps
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method
from kilter.types import Batch


@method("ld_dpo")
@dataclass(frozen=True)
class LDDPO(Pairwise):
    """DPO in which tokens beyond the length of the shorter answer count less.

        l(y) = sum_{t <= m} log p_t + ld_alpha sum_{t > m} log p_t,   m = min(|w|, |l|);   L = -log sigmoid(z)

    The same reduction for policy and reference, in nats. Paper: Liu et al. 2024, "Length desensitization in direct
    preference optimization", eq. 11.

    Use: a length bias that r_dpo's single constant does not catch. Watch: length of sampled answers. Fails: ld_alpha 0 hides
    what the longer answer says beyond the shorter.
    """

    ld_alpha: float = knob(0.5, "weight of the tokens beyond the shorter answer; 1 is dpo", "[0, 1]", "0.3 to 0.6")

    def reduce(self, logps_BT: Tensor, batch: Batch) -> Tensor:
        """Sum with weight ld_alpha beyond the shorter length."""
        w_N, l_N = pairs(batch.mask_BT.sum(-1), batch)
        shared_B1 = w_N.minimum(l_N).repeat_interleave(2)[:, None]
        position_BT = batch.mask_BT.cumsum(-1)
        weight_BT = batch.mask_BT * (position_BT <= shared_B1) + self.ld_alpha * batch.mask_BT * (position_BT > shared_B1)
        return (
            sequence_logps(logps_BT, batch.mask_BT * weight_BT.gt(0))
            if self.ld_alpha == 1
            else (weight_BT * logps_BT.masked_fill(batch.mask_BT == 0, 0)).sum(-1)
        )

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-ls(z)."""
        return -logsigmoid(self.margin(w, l))
