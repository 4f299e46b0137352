"""Group sequence policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.registry import method
from kilter.objectives.rl.grpo import GRPO
from kilter.objectives.rl.policy_gradient import masked_mean
from kilter.types import Batch


@method("gspo")
@dataclass(frozen=True)
class GSPO(GRPO):
    """GRPO with one ratio per sequence: the unit of the clip is the unit of the reward.

        s_i = exp( 1/|y_i| sum_t log(pi / pi_old) ),   L = mean_i -min(s_i A_i, clip(s_i, 1 - e_low, 1 + e_high) A_i)

    Paper: Zheng et al. 2025, "Group sequence policy optimization", eq. 5 to 7.

    Fields as in GRPO (dual_clip, advantage, scale, population, k) with clip_low 3e-4 and clip_high 4e-4, the paper's; beta,
    kl_in, kl_estimator, loss_aggregation, entropy_coef, mask_truncated, missing_eos_penalty and is_cap are common.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def ratio(self, log_ratio_BT: Tensor, batch: Batch) -> Tensor:
        """Sequence level, [B, 1]."""
        return masked_mean(log_ratio_BT, batch.mask_BT).exp()
