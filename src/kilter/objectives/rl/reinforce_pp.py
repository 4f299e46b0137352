"""REINFORCE++: token returns whitened over the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs, moments_of
from kilter.objectives.knobs import knob
from kilter.objectives.registry import method
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.objectives.rl.surrogates import CLIPPED, clipped_surrogate
from kilter.objectives.rl.weights import Aggregation


@method("reinforce_pp")
@dataclass(frozen=True)
class ReinforcePP(PolicyGradient):
    """REINFORCE++: token returns with the KL in the reward, whitened over the batch, under PPO's token clip.

        A_t = whiten( sum_{s >= t} r_s ),   r_s = -beta log(pi_old / ref)_s, plus R at the last action token
        L = 1/tokens sum_it -min(rho A, clip(rho, 1 - e_low, 1 + e_high) A)

    `baseline` subtracts the group's mean score first (REINFORCE++-baseline). Paper: Hu et al. 2025,
    "REINFORCE++".

    Use: the stability of PPO without its critic; few samples per prompt. Watch: kl, entropy. Fails: one scale
    for the whole batch: prompts of very different difficulty share it unless `baseline` is on.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Aggregation = "token"
    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2")
    baseline: bool = knob(False, "subtract the group mean first")

    token_metrics: ClassVar[frozenset[str]] = CLIPPED

    @property
    def needs(self) -> Needs:
        """Of other groups the moments of the token returns."""

        def returns(batch: Batch) -> Tensor:
            returns_BT, mask_BT = self._returns(batch)
            return returns_BT[mask_BT > 0]

        return replace(super().needs, moments={"return": returns})

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """Whitened token returns; unscored rows take no part."""
        returns_BT, mask_BT = self._returns(batch)
        over = moments_of(batch, "return", returns_BT[mask_BT > 0])
        return adv.whiten(returns_BT, mask_BT, over=over)

    def _returns(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rewards from each token on, and the mask of scored rows."""
        score_B = self.scores(batch)
        if self.baseline:
            mean_N, _, _ = adv.group_mean_std(score_B, batch.group_B, batch.groups())
            score_B = (score_B.double() - mean_N[batch.group_B]).to(score_B.dtype)
        mask_BT = batch.mask_BT * (~score_B.isnan()).to(batch.mask_BT.dtype)[:, None]
        reward_BT = adv.at_last_token(score_B, mask_BT)
        if self.beta > 0 and self.kl_in == "reward":
            reward_BT = reward_BT - self.coefficient(batch) * self.token_kl(batch)
        return adv.token_returns(torch.where(mask_BT > 0, reward_BT, 0.0), mask_BT), mask_BT

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-min(ratio A, clip(ratio) A) at every token."""
        return clipped_surrogate(log_ratio_BT.exp(), batch, self.clip_low, self.clip_high)
