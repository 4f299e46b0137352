"""Variational sequence-level soft policy optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked, mean
from kilter.objectives.registry import method
from kilter.objectives.rl.group_relative import GroupRelative
from kilter.objectives.rl.weights import Aggregation

FLOOR = math.log(1e-8)


@method("vespo")
@dataclass(frozen=True)
class VESPO(GroupRelative):
    """Policy gradient weighted by a gamma-shaped function of the whole sequence's importance weight.

        w_i = exp(sum_t log(pi / pi_old)) times the sampling engine's weight
        phi(w) = w^k exp(lambda (1 - w))
        L = 1/tokens sum_it -sg(phi(w_i)) A log pi,   A as in GRPO;   phi(1) = 1

    Very old or very new rollouts count little, on both sides. Paper: Shen et al. 2026, "VESPO".

    Use: rollouts of old policies, or of another engine. Watch: sampling/mismatch_kl. Fails: four settings;
    sequence weights vanish for long answers far off the policy.
    """

    detaches = True

    k_pos: float = knob(2.0, "power of the weight where A >= 0", "(0, inf)", "2")
    lambda_pos: float = knob(3.0, "decay of the weight where A >= 0", "(0, inf)", "3")
    k_neg: float = knob(3.0, "power of the weight where A < 0", "(0, inf)", "3")
    lambda_neg: float = knob(2.0, "decay of the weight where A < 0", "(0, inf)", "2")
    loss_aggregation: Aggregation = "token"

    token_metrics: ClassVar[frozenset[str]] = frozenset({"vespo/phi_seq_mean"})

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-sg(phi(w)) A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        log_w_B1 = masked(log_ratio_BT.detach().clamp(-20, 20), batch.mask_BT).sum(-1, keepdim=True)
        if (
            batch.sampling_logps_BT is not None
        ):  # the engine's weight joins the sequence's, token by token, capped
            old_BT = out.logps_BT.detach() - log_ratio_BT.detach()
            gap_BT = masked(old_BT - batch.sampling_logps_BT, batch.mask_BT).clamp(
                FLOOR, math.log(self.is_cap)
            )
            log_w_B1 = log_w_B1 + gap_BT.sum(-1, keepdim=True)
        log_w_B1 = log_w_B1.clamp(FLOOR, 20.0)
        positive_BT = batch.advantage_BT >= 0
        k_BT = torch.where(positive_BT, self.k_pos, self.k_neg)
        lambda_BT = torch.where(positive_BT, self.lambda_pos, self.lambda_neg)
        phi_BT = (lambda_BT + k_BT * log_w_B1 - lambda_BT * log_w_B1.exp()).exp().nan_to_num(0.0, 0.0, 0.0)
        return -phi_BT * batch.advantage_BT * out.logps_BT, {
            "vespo/phi_seq_mean": mean(phi_BT, batch.mask_BT)
        }

    def correction(self, gap_BT: Tensor, batch: Batch) -> Tensor:
        """1: the weight w corrects for the sampler already."""
        return torch.ones_like(gap_BT)
