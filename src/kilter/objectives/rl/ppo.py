"""Proximal policy optimisation with a critic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kilter.batch import Batch, Loss, Mean, Needs, Outputs, moments_of
from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked, mean
from kilter.objectives.registry import method
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.objectives.rl.surrogates import CLIPPED, clipped_surrogate
from kilter.objectives.rl.weights import Aggregation, token_weights


@method("ppo")
@dataclass(frozen=True)
class PPO(PolicyGradient):
    """The classical RLHF: clipped surrogate, critic for the baseline, KL to the reference in the reward.

        r_t = -beta log(pi_old / ref)_t, plus the score at the last action token;   A, G = GAE(r, V_old)
        L = 1/tokens sum_it [ -min(rho A, clip(rho, 1 - e_low, 1 + e_high) A)
                              + vf 1/2 max( (V - G)^2, (clip(V, V_old -+ e_v) - G)^2 ) ]

    A is whitened over all action tokens of the rollout, G is not; where A < 0 the loss is at most dual_clip
    |A|. The critic predicts at each token's state, before the token. Papers: Schulman et al. 2017 eq. 7;
    Ouyang et al. 2022; Ye et al. 2020.

    Use: a reward model, and memory for a critic; long answers where credit per token matters. Watch:
    val/clipfrac, kl, gold against reward. Fails: without critic warm-up the first steps learn from a critic
    that knows nothing; it holds two trained models.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Aggregation = "token"
    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2")
    value_clip: float = knob(0.2, "how far a value may move from its old one", "(0, inf)", "0.2")
    vf: float = knob(0.1, "weight of the value loss", "[0, inf)", "0.1 to 1")
    gamma: float = knob(1.0, "discount per token", "(0, 1]", "1")
    lam: float = knob(0.95, "lambda of GAE", "[0, 1]", "0.95 to 1")
    dual_clip: float | None = knob(
        3.0, "bound of the loss where A < 0, in units of |A|; null: none", "(1, inf)", "3, or null"
    )
    whiten: bool = knob(True, "advantages to mean 0 and variance 1 over all tokens of the rollouts")
    epochs: int = knob(4, "passes over one batch of rollouts", "[1, inf)", "1 to 4")

    token_metrics: ClassVar[frozenset[str]] = CLIPPED

    @property
    def needs(self) -> Needs:
        """Policy and critic, with the log-probs and values of the policy that sampled."""
        base = super().needs
        return replace(
            base,
            models=frozenset({"policy", "critic"}),
            annotations=base.annotations | {"old_logps", "old_values"},
            outputs=base.outputs | {"values"},
            inner_epochs=self.epochs,
            moments={"advantage": self._advantages} if self.whiten else {},
            metrics=base.metrics | {"loss/value", "val/mean", "val/returns", "val/clipfrac"},
        )

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """GAE over token rewards and the values of the critic that saw the rollouts, before whitening."""
        assert batch.old_values_BT is not None
        values_BT = masked(batch.old_values_BT, batch.mask_BT)
        return adv.gae(self.token_rewards(batch), values_BT, batch.mask_BT, self.gamma, self.lam)[0]

    def prepare(self, batch: Batch) -> Batch:
        """Writes advantage_BT and return_BT. Unscored rows take no part."""
        batch = super().prepare(self._kept(batch))
        assert batch.advantage_BT is not None
        assert batch.old_values_BT is not None
        advantage_BT = batch.advantage_BT
        return_BT = masked(advantage_BT + batch.old_values_BT, batch.mask_BT)
        if self.whiten:
            over = moments_of(batch, "advantage", advantage_BT[batch.mask_BT > 0])
            advantage_BT = adv.whiten(advantage_BT, batch.mask_BT, over=over)
        return batch.with_(
            advantage_BT=advantage_BT, return_BT=return_BT, active_N=None
        )  # the value loss moves every group

    def _kept(self, batch: Batch) -> Batch:
        """With a mask that leaves unscored rows out."""
        keep_B = (~self.scores(batch).isnan()).to(batch.mask_BT.dtype)
        return batch.with_(mask_BT=batch.mask_BT * keep_B[:, None])

    def _advantages(self, batch: Batch) -> Tensor:
        """Of every action token of scored rows, before whitening, [any]."""
        kept = self._kept(batch)
        return self.credit(self.penalised(kept), kept)[kept.mask_BT > 0]

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-min(ratio A, clip(ratio) A) at every token."""
        return clipped_surrogate(log_ratio_BT.exp(), batch, self.clip_low, self.clip_high, self.dual_clip)

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The policy's loss, plus `vf` times the critic's clipped squared error."""
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
