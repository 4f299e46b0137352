"""REINFORCE and its baselines: batch mean, leave-one-out, greedy answer, global whitening."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked
from kilter.objectives.registry import method
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.clipping import clip_metrics, clipped
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.types import Batch, Mean, Needs, Outputs


@method("reinforce")
@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """The plain policy gradient on whole answers, KL in the reward, with the batch's mean as baseline.

        A = R - beta sum_t log(pi_old / ref) - b,   L = 1/tokens sum_it -A log pi

    b is the mean over the batch, or 0. Paper: Williams 1992, "Simple statistical gradient-following algorithms".

    Use: the plainest baseline, one sample per prompt. Watch: grad_norm. Fails: high variance; needs large batches.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"
    baseline: Literal["batch", "none"] = knob("batch", "what is subtracted from the score: the batch mean, or nothing")

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R - b."""
        centred_B = score_B - score_B.nanmean() if self.baseline == "batch" else score_B
        return centred_B.nan_to_num(0.0)

    uses_ratio = False

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        return -batch.advantage_BT * out.logps_BT, {}


@method("remax")
@dataclass(frozen=True)
class ReMax(PolicyGradient):
    """REINFORCE whose baseline is the score of the greedy answer to the same prompt.

        A = R(y) - R(greedy) - beta sum_t log(pi_old / ref),   L = 1/tokens sum_it -A log pi

    One greedy answer per prompt is sampled and scored besides. Paper: Li et al. 2024, "ReMax".

    Use: one sample per prompt and no critic; the greedy answer is the baseline. Watch: reward of the greedy answer
    against the samples'. Fails: an extra rollout per prompt; a strong greedy answer leaves only negative advantages.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"

    @property
    def needs(self) -> Needs:
        """Rollouts with a greedy answer beside them."""
        return replace(super().needs, greedy_baseline=True)

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R - R(greedy)."""
        assert batch.baseline_N is not None, "remax needs the score of the greedy answer"
        return (score_B - batch.baseline_N.to(score_B.dtype)[batch.group_B]).nan_to_num(0.0)

    uses_ratio = False

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-A log pi."""
        assert batch.advantage_BT is not None
        assert out.logps_BT is not None
        return -batch.advantage_BT * out.logps_BT, {}


@method("rloo")
@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """REINFORCE leave-one-out: the baseline of an answer is the mean score of its siblings.

        A_i = R_i - 1/(K-1) sum_{j != i} R_j,   R = score - beta sum_t log(pi_old / ref)
        L = mean_i -min(rho_i A_i, clip(rho_i, 1 - e_low, 1 + e_high) A_i),   rho_i = exp(sum_t log(pi / pi_old))

    Paper: Ahmadian et al. 2024, "Back to basics"; the sequence-level clip as in TRL, inactive when a batch is used once.

    Use: several samples per prompt, an unbiased baseline for free. Watch: reward, entropy. Fails: with two samples
    the baseline is noisy.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2")
    normalize: bool = knob(False, "advantages of the batch divided by their standard deviation")

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """Leave-one-out."""
        advantage_B = adv.rloo(score_B, batch.group_B, batch.groups())
        if self.normalize:
            advantage_B = (advantage_B - advantage_B.mean()) / (advantage_B.std() + adv.EPSILON)
        return advantage_B

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """The clip on whole sequences."""
        assert batch.advantage_BT is not None
        ratio_BT = masked(log_ratio_BT, batch.mask_BT).sum(-1, keepdim=True).exp().expand_as(log_ratio_BT)
        metrics = clip_metrics(ratio_BT.detach(), batch.advantage_BT, batch.mask_BT, self.clip_low, self.clip_high)
        return clipped(ratio_BT, batch.advantage_BT, self.clip_low, self.clip_high), metrics


@method("reinforce_pp")
@dataclass(frozen=True)
class ReinforcePP(PolicyGradient):
    """REINFORCE++: token returns with the KL in the reward, whitened over the whole batch, with the token clip of PPO.

        A_t = whiten( sum_{s >= t} r_s ),   r_s = -beta log(pi_old / ref)_s, plus R at the last action token
        L = 1/tokens sum_it -min(rho A, clip(rho, 1 - e_low, 1 + e_high) A)

    `baseline` subtracts the group's mean score first (REINFORCE++-baseline). Paper: Hu et al. 2025, "REINFORCE++".

    Use: the stability of PPO without its critic; few samples per prompt. Watch: kl, entropy. Fails: one scale for the
    whole batch: prompts of very different difficulty share it unless `baseline` is on.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"
    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2")
    baseline: bool = knob(False, "subtract the group mean first")

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """Whitened token returns; unscored rows take no part."""
        score_B = self.scores(batch)
        if self.baseline:
            mean_N, _, _ = adv.group_mean_std(score_B, batch.group_B, batch.groups())
            score_B = score_B - mean_N[batch.group_B]
        mask_BT = batch.mask_BT * (~score_B.isnan()).to(batch.mask_BT.dtype)[:, None]
        reward_BT = adv.at_last_token(score_B, mask_BT)
        if self.beta > 0 and self.kl_in == "reward":
            reward_BT = reward_BT - self.coefficient(batch) * self.token_kl(batch)
        returns_BT = adv.token_returns(torch.where(mask_BT > 0, reward_BT, 0.0), mask_BT)
        return adv.whiten(returns_BT, mask_BT)

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """The clipped surrogate."""
        assert batch.advantage_BT is not None
        ratio_BT = log_ratio_BT.exp()
        metrics = clip_metrics(ratio_BT.detach(), batch.advantage_BT, batch.mask_BT, self.clip_low, self.clip_high)
        return clipped(ratio_BT, batch.advantage_BT, self.clip_low, self.clip_high), metrics
