"""PRO: preference ranking optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.lists.listwise import Listwise, gaps, soft_plackett_luce_nll, upper
from kilter.objectives.registry import method


@method("pro")
@dataclass(frozen=True)
class PRO(Listwise):
    """Each answer in turn must win against all below it, more sharply where the labels lie further apart.

        L = - sum_k log [ exp(lbar_k T_kk) / sum_{i >= k} exp(lbar_i T_ki) ] + nll_weight * NLL(best)
        T_ki = g_k - g_i (labels),   T_kk = max_i T_ki

    lbar in nats per token. by_label false takes every T as 1 (Plackett-Luce on mean log-probs). No reference.
    Paper: Song et al. 2024, "Preference ranking optimization for human alignment". A judge's odds are in its
    scores, and so in T. With by_label false they act as in plackett_luce.

    Use: answers with graded scores. Watch: nll, of the best. Fails: labels on a wide scale make the softmax
    hard; bring scores to about 0..1.
    """

    beta: float = knob(1.0, "weight of the ranking term", "(0, inf)", "0.05 to 1")
    nll_weight: float = knob(0.05, "weight of the imitation term", "[0, inf)", "0.05 to 1")
    by_label: bool = knob(True, "sharpness from the labels' differences")

    uses_reference: ClassVar[bool] = False
    soft: ClassVar[bool] = True

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NKK: Tensor) -> Tensor:
        """By label, T has the odds already: a judge's scores are mean odds."""
        if self.by_label:
            return self.list_loss(score_NK, valid_NK, label_NK)
        return self.beta * soft_plackett_luce_nll(score_NK, valid_NK, p_NKK)

    def list_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor) -> Tensor:
        """One softmax per rank but the last."""
        above_NKK = upper(valid_NK)
        sharp_NKK = torch.ones_like(gaps(score_NK))
        if self.by_label:
            sharp_NKK = gaps(label_NK).clamp_min(0).masked_fill(~above_NKK, 0.0)
        own_NK = sharp_NKK.amax(-1) if self.by_label else torch.ones_like(score_NK)
        rival_NKK = (score_NK[:, None, :] * sharp_NKK).masked_fill(~above_NKK, float("-inf"))
        win_NK = score_NK * own_NK
        total_NK = torch.cat([win_NK[:, :, None], rival_NKK], -1).logsumexp(-1)
        return self.beta * torch.where(above_NKK.any(-1), total_NK - win_NK, 0.0).sum(-1)

    def imitation(self) -> float:
        """Weight of the best answer's log-likelihood in the loss."""
        return self.nll_weight
