"""Clipped importance-sampling policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Mean, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.ops import mean
from kilter.objectives.registry import method
from kilter.objectives.rl.group_relative import GroupRelative
from kilter.objectives.rl.weights import Aggregation


@method("cispo")
@dataclass(frozen=True)
class CISPO(GroupRelative):
    """Policy gradient with a detached, capped importance weight: no token's gradient is ever switched off.

        L = 1/tokens sum_it -sg(min(rho, cap)) A log pi,   A as in GRPO

    Paper: MiniMax 2025, "MiniMax-M1", eq. 4.

    Use: rare but decisive tokens, which a clip would silence. Watch: cispo_clip_ratio, entropy. Fails: no
    lower bound holds the ratio, so stale rollouts move the policy far.
    """

    detaches = True

    cap: float = knob(5.0, "largest ratio that weighs a token", "[1, inf)", "5")
    loss_aggregation: Aggregation = "token"

    token_metrics: ClassVar[frozenset[str]] = frozenset({"cispo_clip_ratio"})

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-sg(min(rho, cap)) A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        ratio_BT = log_ratio_BT.detach().exp()
        capped = ((ratio_BT > self.cap) & (batch.advantage_BT > 0)).float()
        return -ratio_BT.clamp_max(self.cap) * batch.advantage_BT * out.logps_BT, {
            "cispo_clip_ratio": mean(capped, batch.mask_BT)
        }
