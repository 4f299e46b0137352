"""What every policy-gradient objective shares: ratios, KL, credit on tokens, denominators, metrics.

    L = sum_it w_it [ loss_t(rho, A) * c_it + beta KL_t - ent H_t ]

w are weights whose denominators span the optimizer step: 1 / (|y_i| B) ("sequence"), 1 / tokens ("token"), 1
/ (B L) ("constant", L the length limit) or 1 / B ("sum"). c is the truncated importance weight min(pi_old /
pi_sampler, cap) when the rollouts come from another engine. A member of the family writes `credit` and
`token_loss`, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kilter.batch import Batch, Loss, Mean, Needs, Outputs
from kilter.objectives.knobs import check, knob
from kilter.objectives.ops import masked, mean
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.weights import Aggregation, kl_terms, token_weights


@dataclass(frozen=True)
class PolicyGradient(ABC):
    """Base of the family; see the members. Their common fields stand here."""

    beta: float = knob(0.0, "KL coefficient (nats); 0 loads no reference", "[0, inf)", "0 to 0.1")
    kl_in: Literal["loss", "reward"] = knob(
        "loss", "a KL per token beside the policy loss, or subtracted from the score"
    )
    kl_estimator: Literal["k3", "k2", "k3_st"] = knob(
        "k3", "of the KL in the loss; k1 is no choice: it has no gradient on average"
    )
    loss_aggregation: Aggregation = knob(
        "sequence",
        "what weighs the same: each completion, each token, or each token of the limit; "
        "sum: each completion by its length",
    )
    entropy_coef: float = knob(0.0, "weight of an entropy bonus", "[0, inf)", "0 to 0.01")
    mask_truncated: bool = knob(False, "completions without EOS do not train")
    missing_eos_penalty: float = knob(
        0.0, "subtracted from the score of completions without EOS", "[0, inf)", "0 to 1"
    )
    is_cap: float = knob(2.0, "cap of the importance weight against the sampling engine", "(0, inf)", "2")

    name = "policy_gradient"
    uses_ratio: ClassVar[bool] = True
    """Whether the loss has a ratio to the policy that sampled; if not, old rollouts are reweighted."""
    compares_siblings: ClassVar[bool] = False
    """Whether the baseline comes from the other answers to the prompt, so that one alone teaches nothing."""

    token_metrics: ClassVar[frozenset[str]] = frozenset()
    """Names of the metrics that `token_loss` returns."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """Rollouts; the reference only when beta is above 0, old log-probs only for KL in the reward."""
        wanted = {
            "ref_logps": self.beta > 0,
            "old_logps": self.beta > 0 and self.kl_in == "reward",
            "mask_truncated": self.mask_truncated,
            "sampling_logps": not self.uses_ratio,
            "length_limit": self.loss_aggregation == "constant",
        }
        return Needs(
            shape="rollouts",
            unit="row",
            annotations=frozenset(name for name, asked in wanted.items() if asked),
            outputs=frozenset({"logps", "entropy"} if self.entropy_coef else {"logps"}),
            learning_rate=1e-6,
            siblings=2 if self.compares_siblings else 1,
            kl_coefficient=self.beta,
            corrections=frozenset({"decoupled", "anchored"} if self.uses_ratio else {"decoupled"}),
            metrics=self.token_metrics | {"entropy"} | ({"kl"} if self.beta > 0 else frozenset()),
        )

    @abstractmethod
    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """Advantages [B] or [B, T]."""

    @abstractmethod
    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Loss per token before weighting, and metrics."""

    def coefficient(self, batch: Batch) -> Tensor | float:
        """The controller's KL coefficient, else beta."""
        return batch.extra.get("kl_coef", self.beta)

    def scores(self, batch: Batch) -> Tensor:
        """Scores with the penalty for a missing EOS."""
        score_B = batch.score_B.to(batch.mask_BT.dtype)
        if self.missing_eos_penalty and batch.truncated_B is not None:
            score_B = score_B - self.missing_eos_penalty * batch.truncated_B
        return score_B

    def token_kl(self, batch: Batch) -> Tensor:
        """k1 of the sampled tokens, log pi_old - log ref, [B, T]; 0 where no KL is asked for."""
        if self.beta == 0:
            return torch.zeros_like(batch.mask_BT)
        assert batch.old_logps_BT is not None
        assert batch.ref_logps_BT is not None
        return masked(batch.old_logps_BT - batch.ref_logps_BT, batch.mask_BT)

    def token_rewards(self, batch: Batch) -> Tensor:
        """The score on the last action token, and -beta k1 on each if the KL is in the reward; [B, T]."""
        reward_BT = adv.at_last_token(self.scores(batch), batch.mask_BT)
        if self.kl_in == "loss":
            return reward_BT
        return reward_BT - self.coefficient(batch) * self.token_kl(batch)

    def penalised(self, batch: Batch) -> Tensor:
        """What `credit` is given: scores, less the KL of the whole answer where the KL is in the reward."""
        score_B = self.scores(batch)
        # For credit that compares answers; PPO takes `token_rewards`, where the KL stands by token.
        if self.beta > 0 and self.kl_in == "reward":
            score_B = score_B - self.coefficient(batch) * self.token_kl(batch).sum(-1)
        return score_B

    def prepare(self, batch: Batch) -> Batch:
        """Writes advantage_BT and active_N."""
        credit = self.credit(self.penalised(batch), batch)
        advantage_BT = masked(
            credit if credit.ndim == 2 else credit[:, None].expand_as(batch.mask_BT), batch.mask_BT
        )
        batch = batch.with_(advantage_BT=advantage_BT)
        idle = self.entropy_coef == 0 and (self.beta == 0 or self.kl_in == "reward")
        if not idle:
            return batch
        moving_B = (advantage_BT * batch.mask_BT).abs().sum(-1)
        return batch.with_(active_N=adv.group_sum(moving_B, batch.group_B, batch.groups()) > 0)

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The weighted sum above."""
        assert out.logps_BT is not None
        logps_BT = masked(out.logps_BT, batch.mask_BT)
        old_BT = (
            logps_BT.detach() if batch.old_logps_BT is None else masked(batch.old_logps_BT, batch.mask_BT)
        )
        loss_BT, metrics = self.token_loss(logps_BT - old_BT, out, batch)
        loss_BT = loss_BT.expand_as(logps_BT)
        if batch.sampling_logps_BT is not None:
            gap_BT = masked(old_BT - batch.sampling_logps_BT, batch.mask_BT)
            loss_BT = loss_BT * self.correction(gap_BT, batch)
            weight_BT = gap_BT.exp().clamp_max(self.is_cap)
            metrics["sampling/importance_sampling_ratio/mean"] = mean(weight_BT, batch.mask_BT)
        if batch.ref_logps_BT is not None and self.beta > 0:
            kl_BT = kl_terms(logps_BT, masked(batch.ref_logps_BT, batch.mask_BT), self.kl_estimator)
            if self.kl_in == "loss":
                loss_BT = loss_BT + self.coefficient(batch) * kl_BT
            k3_BT = kl_terms(logps_BT, batch.ref_logps_BT, "k3")
            metrics["kl"] = mean(masked(k3_BT, batch.mask_BT), batch.mask_BT)
        entropy_BT = -logps_BT.detach()
        if self.entropy_coef:
            assert out.entropy_BT is not None
            entropy_BT = masked(out.entropy_BT, batch.mask_BT)
            loss_BT = loss_BT - self.entropy_coef * entropy_BT
        metrics["entropy"] = mean(entropy_BT, batch.mask_BT)
        value = masked(token_weights(batch, self.loss_aggregation) * loss_BT, batch.mask_BT).sum()
        return Loss(value, metrics)

    def correction(self, gap_BT: Tensor, batch: Batch) -> Tensor:
        """Truncated importance weight of the sampling engine."""
        return gap_BT.exp().clamp_max(self.is_cap)
