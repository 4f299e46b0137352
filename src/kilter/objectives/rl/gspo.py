"""Group sequence policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.batch import Batch
from kilter.objectives.knobs import knob
from kilter.objectives.registry import method
from kilter.objectives.rl.grpo import GRPO
from kilter.objectives.rl.weights import masked_mean


@method("gspo")
@dataclass(frozen=True)
class GSPO(GRPO):
    """GRPO with one ratio per sequence: the unit of the clip is the unit of the reward.

        s_i = exp( 1/|y_i| sum_t log(pi / pi_old) )
        L = mean_i -min(s_i A_i, clip(s_i, 1 - e_low, 1 + e_high) A_i)

    Paper: Zheng et al. 2025, "Group sequence policy optimization", eq. 5 to 7.

    Use: mixture-of-experts models and long answers, where token ratios are noisy. Watch:
    clip_ratio/region_mean, much higher than grpo's by design. Fails: the clip is narrow: with several passes
    over a batch most sequences are clipped.
    """

    clip_low: float = knob(3e-4, "lower side of the clip of the sequence ratio", "(0, 1)", "3e-4")
    clip_high: float = knob(4e-4, "upper side of the clip of the sequence ratio", "(0, inf)", "4e-4")

    def ratio(self, log_ratio_BT: Tensor, batch: Batch) -> Tensor:
        """The geometric mean of pi / pi_old over the answer's tokens, [B, 1]."""
        return masked_mean(log_ratio_BT, batch.mask_BT).exp()
