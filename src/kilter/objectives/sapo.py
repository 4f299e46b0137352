"""Soft adaptive policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.errors import UserError
from kilter.objectives.policy_gradient import GroupRelative
from kilter.objectives.registry import objectives
from kilter.types import Batch, Mean, Outputs


@objectives.register("sapo")
@dataclass(frozen=True)
class SAPO(GroupRelative):
    """A smooth gate in place of the clip: the weight of a token fades as its ratio leaves 1, faster where A < 0.

        L = mean_i mean_t -(4 / tau) sigmoid(tau (rho - 1)) A,   tau = tau_pos where A > 0, else tau_neg;   A as in GRPO

    At rho = 1 its gradient is that of the plain policy gradient. Paper: Gao et al. 2025, "Soft adaptive policy optimization".

    Fields: tau_pos, tau_neg > 0, temperatures of the gate; scale of the advantage, "group", "batch" or "none".
    beta, kl_in, kl_estimator, loss_aggregation, entropy_coef, mask_truncated, missing_eos_penalty, is_cap are common.
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    name = "sapo"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("tau_pos", "tau_neg"):
            if not getattr(self, field) > 0:
                raise UserError(f"sapo.{field}", getattr(self, field), "must be above 0", "use 1")

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """The gated advantage."""
        assert batch.advantage_BT is not None
        tau_BT = torch.where(batch.advantage_BT > 0, self.tau_pos, self.tau_neg).to(log_ratio_BT.dtype)
        return -4 / tau_BT * torch.sigmoid(tau_BT * (log_ratio_BT.exp() - 1)) * batch.advantage_BT, {}
