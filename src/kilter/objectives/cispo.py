"""Clipped importance-sampling policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kilter.errors import UserError
from kilter.objectives.ops import mean
from kilter.objectives.policy_gradient import GroupRelative
from kilter.objectives.registry import objectives
from kilter.types import Batch, Mean, Outputs


@objectives.register("cispo")
@dataclass(frozen=True)
class CISPO(GroupRelative):
    """Policy gradient with a detached, capped importance weight: no token's gradient is ever switched off.

        L = 1/tokens sum_it -sg(min(rho, cap)) A log pi,   A as in GRPO

    Paper: MiniMax 2025, "MiniMax-M1", eq. 4.

    Fields: cap of the ratio, above 1, 5 in Khatri et al. 2025; scale of the advantage, "group", "batch" or "none".
    loss_aggregation "token"; beta, kl_in, kl_estimator, entropy_coef, mask_truncated, missing_eos_penalty, is_cap are common.
    """

    cap: float = 5.0
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"

    name = "cispo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cap >= 1:
            raise UserError("cispo.cap", self.cap, "must be at least 1", "use 5")

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-sg(min(rho, cap)) A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        ratio_BT = log_ratio_BT.detach().exp()
        capped = ((ratio_BT > self.cap) & (batch.advantage_BT > 0)).float()
        return -ratio_BT.clamp_max(self.cap) * batch.advantage_BT * out.logps_BT, {"cispo_clip_ratio": mean(capped, batch.mask_BT)}
