"""Length-unbiased sequence policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from kilter.objectives.registry import method
from kilter.objectives.rl.gspo import GSPO
from kilter.objectives.rl.weights import Aggregation


@method("luspo")
@dataclass(frozen=True)
class LUSPO(GSPO):
    """GSPO whose sequences weigh by their length, so that every token counts alike.

        s_i = exp( 1/|y_i| sum_t log(pi / pi_old) )
        L = mean_i -|y_i| min(s_i A_i, clip(s_i, 1 - e_low, 1 + e_high) A_i)

    The gradient of s_i is already divided by |y_i|; gspo's answers shrink for it. Paper: 2026,
    "Length-unbiased sequence policy optimization" (arXiv 2602.05261).

    Use: gspo makes answers shorter than the task wants. Watch: completions/mean_length,
    clip_ratio/region_mean. Fails: the loss grows with the length of the answers, and with it the gradient
    norm.
    """

    loss_aggregation: Aggregation = "sum"
