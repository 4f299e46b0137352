"""Variational sequence-level soft policy optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kilter.errors import UserError
from kilter.objectives.ops import mean
from kilter.objectives.policy_gradient import GroupRelative, masked
from kilter.objectives.registry import objectives
from kilter.types import Batch, Mean, Outputs

FLOOR = math.log(1e-8)


@objectives.register("vespo")
@dataclass(frozen=True)
class VESPO(GroupRelative):
    """Policy gradient weighted by a gamma-shaped function of the whole sequence's importance weight.

        w_i = exp(sum_t log(pi / pi_old)) times the sampling engine's weight,   phi(w) = w^k exp(lambda (1 - w))
        L = 1/tokens sum_it -sg(phi(w_i)) A log pi,   A as in GRPO;   phi(1) = 1

    Very old or very new rollouts count little, on both sides. Paper: Shen et al. 2026, "VESPO".

    Fields: k_pos, lambda_pos where A >= 0 and k_neg, lambda_neg where A < 0, all above 0; scale of the advantage, "group",
    "batch" or "none". loss_aggregation "token"; beta, kl_in, kl_estimator, entropy_coef, mask_truncated, missing_eos_penalty
    and is_cap are common.
    """

    k_pos: float = 2.0
    lambda_pos: float = 3.0
    k_neg: float = 3.0
    lambda_neg: float = 2.0
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"

    name = "vespo"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("k_pos", "lambda_pos", "k_neg", "lambda_neg"):
            if not getattr(self, field) > 0:
                raise UserError(f"vespo.{field}", getattr(self, field), "must be above 0", "use 2 or 3")

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-sg(phi(w)) A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        log_w_B1 = masked(log_ratio_BT.detach().clamp(-20, 20), batch.mask_BT).sum(-1, keepdim=True)
        if batch.sampling_logps_BT is not None:  # the engine's weight joins the sequence's, token by token, capped
            old_BT = out.logps_BT.detach() - log_ratio_BT.detach()
            gap_BT = masked(old_BT - batch.sampling_logps_BT, batch.mask_BT).clamp(FLOOR, math.log(self.is_cap))
            log_w_B1 = log_w_B1 + gap_BT.sum(-1, keepdim=True)
        log_w_B1 = log_w_B1.clamp(FLOOR, 20.0)
        positive_BT = batch.advantage_BT >= 0
        k_BT = torch.where(positive_BT, self.k_pos, self.k_neg)
        lambda_BT = torch.where(positive_BT, self.lambda_pos, self.lambda_neg)
        phi_BT = (lambda_BT + k_BT * log_w_B1 - lambda_BT * log_w_B1.exp()).exp().nan_to_num(0.0, 0.0, 0.0)
        return -phi_BT * batch.advantage_BT * out.logps_BT, {"vespo/phi_seq_mean": mean(phi_BT, batch.mask_BT)}

    def correction(self, gap_BT: Tensor, batch: Batch) -> Tensor:
        """Already in w."""
        return torch.ones_like(gap_BT)
