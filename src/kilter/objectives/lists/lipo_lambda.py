"""LiPO-lambda: learning to rank with LambdaLoss weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kilter.objectives.lists.listwise import Listwise, gaps, upper
from kilter.objectives.registry import method


@method("lipo_lambda")
@dataclass(frozen=True)
class LiPOLambda(Listwise):
    """All pairs of a list under the logistic loss, weighted by what swapping them costs in discounted gain.

        L = sum_{i above j} D_ij log(1 + exp(-(s_i - s_j)))
        D_ij = |G_i - G_j| |1/log2(1 + t_i) - 1/log2(1 + t_j)|
        G = 2^g - 1,   t the rank by the present scores s = beta (l - l_ref)

    g is the label brought to [0, 1] within its list; D is a constant for the gradient. Paper: Liu et al.
    2024, "LiPO: listwise preference optimization through learning-to-rank". If labels are soft, a pair's loss
    is the expected one over both orders.

    Use: ratings or rankings of several answers, where the top matters most. Watch: rewards/accuracies. Fails:
    with two answers it is dpo with a constant.
    """

    soft: ClassVar[bool] = True

    def list_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor) -> Tensor:
        """Weighted logistic loss over pairs."""
        certain_NKK = torch.ones_like(gaps(score_NK))
        return self.soft_loss(score_NK, valid_NK, label_NK, certain_NKK)

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NKK: Tensor) -> Tensor:
        """The same where i is better than j with probability p_ij."""
        low_N1 = label_NK.masked_fill(~valid_NK, float("inf")).amin(-1, keepdim=True)
        high_N1 = label_NK.masked_fill(~valid_NK, float("-inf")).amax(-1, keepdim=True)
        grade_NK = ((label_NK - low_N1) / (high_N1 - low_N1).clamp_min(1e-12)).masked_fill(
            ~valid_NK, 0.0
        )  # padding would overflow
        gain_NK = 2**grade_NK - 1
        order_NK = (
            score_NK.detach()
            .masked_fill(~valid_NK, float("-inf"))
            .argsort(dim=-1, descending=True, stable=True)
        )
        rank_NK = order_NK.argsort(-1) + 1
        discount_NK = 1 / torch.log2(1 + rank_NK.to(score_NK.dtype))
        weight_NKK = gaps(gain_NK).abs() * gaps(discount_NK).abs()
        # log(1 + exp(x)) - x is log(1 + exp(-x)): the other order costs the gap more.
        gap_NKK = gaps(score_NK)
        loss_NKK = softplus(-gap_NKK) + (1 - p_NKK) * gap_NKK
        return torch.where(upper(valid_NK), weight_NKK * loss_NKK, 0.0).sum((1, 2))
