"""Proximal policy optimisation with a critic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kilter.errors import UserError
from kilter.objectives import advantages as adv
from kilter.objectives.clipping import check_clip, clip_metrics, clipped
from kilter.objectives.ops import mean
from kilter.objectives.policy_gradient import PolicyGradient, masked, token_weights
from kilter.objectives.registry import objectives
from kilter.types import Batch, Loss, Mean, Needs, Outputs


@objectives.register("ppo")
@dataclass(frozen=True)
class PPO(PolicyGradient):
    """The classical RLHF: clipped surrogate, a critic for the baseline, the KL to the reference in the reward.

        r_t = -beta log(pi_old / ref)_t, plus the score at the last action token;   A, G = GAE(r, V_old)
        L = 1/tokens sum_it [ -min(rho A, clip(rho, 1 - e_low, 1 + e_high) A)
                              + vf 1/2 max( (V - G)^2, (clip(V, V_old -+ e_v) - G)^2 ) ]

    A is whitened over all action tokens of the rollout, G is not; where A < 0 the loss is at most dual_clip |A|. The critic
    predicts at each token's state, before the token. Papers: Schulman et al. 2017 eq. 7; Ouyang et al. 2022; Ye et al. 2020.

    Fields: clip_low, clip_high, usually 0.2; value_clip e_v, usually 0.2; vf weight of the value loss; gamma and lam of GAE, in
    (0, 1]; dual_clip above 1, or null; whiten true or false; epochs passes over one batch of rollouts. kl_in "reward",
    loss_aggregation "token"; beta, kl_estimator, entropy_coef, mask_truncated, missing_eos_penalty, is_cap are common.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Literal["sequence", "token", "constant"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    value_clip: float = 0.2
    vf: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    dual_clip: float | None = 3.0
    whiten: bool = True
    epochs: int = 4

    name = "ppo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.name, self.clip_low, self.clip_high)
        checks = [
            ("value_clip", self.value_clip > 0, "must be above 0", "use 0.2"), ("vf", self.vf >= 0, "must not be negative", "use 0.1"),
            ("gamma", 0 < self.gamma <= 1, "must lie in (0, 1]", "use 1"), ("lam", 0 <= self.lam <= 1, "must lie in [0, 1]", "use 0.95"),
            ("dual_clip", self.dual_clip is None or self.dual_clip > 1, "must be above 1", "use 3, or null"),
            ("epochs", self.epochs >= 1, "must be at least 1", "use 4"),
        ]  # fmt: skip
        for field, good, problem, fix in checks:
            if not good:
                raise UserError(f"ppo.{field}", getattr(self, field), problem, fix)

    @property
    def needs(self) -> Needs:
        """Policy and critic, with the log-probs and values of the policy that sampled."""
        base = super().needs
        return replace(
            base, models=frozenset({"policy", "critic"}), annotations=base.annotations | {"old_logps", "old_values"},
            outputs=base.outputs | {"values"}, inner_epochs=self.epochs,
        )  # fmt: skip

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """GAE over token rewards and the values of the critic that saw the rollouts, before whitening."""
        assert batch.old_values_BT is not None
        values_BT = masked(batch.old_values_BT, batch.mask_BT)
        return adv.gae(self.token_rewards(batch), values_BT, batch.mask_BT, self.gamma, self.lam)[0]

    def prepare(self, batch: Batch) -> Batch:
        """Writes advantage_BT and return_BT. Rows that are masked (unscored, or truncated on request) take no part."""
        keep_B = (~self.scores(batch).isnan()).to(batch.mask_BT.dtype)
        if self.mask_truncated and batch.truncated_B is not None:
            keep_B = keep_B * (1 - batch.truncated_B)
        batch = super().prepare(batch.with_(mask_BT=batch.mask_BT * keep_B[:, None]))
        assert batch.advantage_BT is not None
        assert batch.old_values_BT is not None
        return_BT = masked(batch.advantage_BT + batch.old_values_BT, batch.mask_BT)
        advantage_BT = adv.whiten(batch.advantage_BT, batch.mask_BT) if self.whiten else batch.advantage_BT
        return batch.with_(advantage_BT=advantage_BT, return_BT=return_BT, active_N=None)  # the value loss moves every group

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """The clipped surrogate."""
        assert batch.advantage_BT is not None
        ratio_BT = log_ratio_BT.exp()
        metrics = clip_metrics(ratio_BT.detach(), batch.advantage_BT, batch.mask_BT, self.clip_low, self.clip_high)
        return clipped(ratio_BT, batch.advantage_BT, self.clip_low, self.clip_high, self.dual_clip), metrics

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Policy and value loss."""
        policy = super().loss(out, batch)
        assert out.values_BT is not None
        assert batch.old_values_BT is not None
        assert batch.return_BT is not None
        values_BT, old_BT = masked(out.values_BT, batch.mask_BT), masked(batch.old_values_BT, batch.mask_BT)
        near_BT = old_BT + (values_BT - old_BT).clamp(-self.value_clip, self.value_clip)
        plain_BT, clipped_BT = (values_BT - batch.return_BT).square(), (near_BT - batch.return_BT).square()
        value_BT = torch.max(plain_BT, clipped_BT) / 2
        weights_BT = token_weights(batch, self.loss_aggregation)
        total = policy.value + self.vf * (weights_BT * masked(value_BT, batch.mask_BT)).sum()
        metrics = policy.metrics | {
            "loss/value": mean(value_BT, batch.mask_BT),
            "val/mean": mean(values_BT, batch.mask_BT),
            "val/returns": mean(batch.return_BT, batch.mask_BT),
            "val/clipfrac": mean((clipped_BT > plain_BT).float(), batch.mask_BT),
        }
        return Loss(total, metrics)
