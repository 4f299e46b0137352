"""Weighted preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Outputs
from kilter.objectives.ops import mean_logps, pairs
from kilter.objectives.pairs.dpo import DPO
from kilter.objectives.registry import method


@method("wpo")
@dataclass(frozen=True)
class WPO(DPO):
    """DPO with each pair weighted by how likely the policy itself is to write it.

        L = v(w) v(l) L_dpo,   v(y) = sg exp( mean_t [ log p_t - log sum_v p_v^2 ] )

    Off-policy pairs are made on-policy by it. The sum over the vocabulary aligns tokens of flat and of peaked
    distributions. Paper: Zhou et al. 2024,
    "WPO: enhancing RLHF with weighted preference optimization", eq. 2.

    Use: pairs written by other models. Watch: grad_norm; near 0 nothing is learned. Fails: with pairs very
    unlike the policy's answers the weights leave almost no data.
    """

    detaches = True

    computes: ClassVar[frozenset[str]] = frozenset({"logps", "collision"})

    def total(self, loss_N: Tensor, out: Outputs, batch: Batch) -> Tensor:
        """Pairs weighted by the policy's own likelihood of them."""
        assert out.logps_BT is not None
        assert out.collision_BT is not None
        weight_B = mean_logps(out.logps_BT.detach() - out.collision_BT.detach(), batch.mask_BT).exp()
        weight_w_N, weight_l_N = pairs(weight_B, batch)
        return super().total(weight_w_N * weight_l_N * loss_N, out, batch)
