"""Length-desensitised DPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked, pairs
from kilter.objectives.pairwise import Pairwise
from kilter.objectives.registry import method


@method("ld_dpo")
@dataclass(frozen=True)
class LDDPO(Pairwise):
    """DPO in which tokens beyond the length of the shorter answer count less.

        l(y) = sum_{t <= m} log p_t + ld_alpha sum_{t > m} log p_t,   m = min(|w|, |l|);   L = -log sigmoid(z)

    The same reduction for policy and reference, in nats. Paper: Liu et al. 2024, "Length desensitization in
    direct preference optimization".

    Use: a length bias that r_dpo's single constant does not catch. Watch: length of sampled answers. Fails:
    ld_alpha 0 hides what the longer answer says beyond the shorter.
    """

    ld_alpha: float = knob(
        0.5, "weight of the tokens beyond the shorter answer; 1 is dpo", "[0, 1]", "0.3 to 0.6"
    )

    def reduce(self, logps_BT: Tensor, batch: Batch) -> Tensor:
        """Sum with weight ld_alpha beyond the shorter length."""
        w_N, l_N = pairs(batch.mask_BT.sum(-1), batch)
        shared_B1 = w_N.minimum(l_N).repeat_interleave(2)[:, None]
        beyond_BT = batch.mask_BT.cumsum(-1) > shared_B1
        weight_BT = batch.mask_BT * torch.where(beyond_BT, self.ld_alpha, 1.0).to(batch.mask_BT.dtype)
        return masked(logps_BT, batch.mask_BT).mul(weight_BT).sum(-1)
