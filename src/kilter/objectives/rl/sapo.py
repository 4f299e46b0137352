"""Soft adaptive policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.registry import method
from kilter.objectives.rl.group_relative import GroupRelative


@method("sapo")
@dataclass(frozen=True)
class SAPO(GroupRelative):
    """A smooth gate in place of the clip: a token's weight fades as its ratio leaves 1, faster where A < 0.

        L = mean_i mean_t -(4 / tau) sigmoid(tau (rho - 1)) A,   A as in GRPO
        tau = tau_pos where A > 0, else tau_neg

    At rho = 1 its gradient is that of the plain policy gradient. Paper: Gao et al. 2025, "Soft adaptive
    policy optimization".

    Use: several passes over a batch, where a hard clip throws gradients away. Watch: entropy. Fails: two
    temperatures to tune; near the old policy it is grpo.
    """

    tau_pos: float = knob(1.0, "temperature of the gate where A > 0", "(0, inf)", "1")
    tau_neg: float = knob(1.05, "temperature of the gate where A <= 0", "(0, inf)", "1.05")

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-(4 / tau) sigmoid(tau (ratio - 1)) A, with tau by the sign of A."""
        assert batch.advantage_BT is not None
        tau_BT = torch.where(batch.advantage_BT > 0, self.tau_pos, self.tau_neg).to(log_ratio_BT.dtype)
        return -4 / tau_BT * torch.sigmoid(tau_BT * (log_ratio_BT.exp() - 1)) * batch.advantage_BT, {}
