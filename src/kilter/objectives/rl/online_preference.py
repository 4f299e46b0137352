"""Preference objectives on fresh pairs: online DPO, Nash-MD, XPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import check, knob
from kilter.objectives.ops import mean, pairs, sequence_logps, uniform_group_weights
from kilter.objectives.registry import method
from kilter.types import Batch, Loss, Mean, Needs, Outputs


def preference(batch: Batch, labels: str) -> Tensor:
    """P(first row of the pair preferred), [N]; NaN unscored.

    hard: 1, 1/2 or 0 by score; soft: sigmoid of the score difference; probability: the first score itself, which a preference
    model gives as P(first beats second).
    """
    first_N, second_N = pairs(batch.score_B.to(batch.mask_BT.dtype), batch)
    gap_N = first_N - second_N
    if labels == "probability":
        return torch.where(gap_N.isnan(), gap_N, first_N).clamp(0, 1)
    return torch.sigmoid(gap_N) if labels == "soft" else (gap_N.sign() + 1) / 2


@dataclass(frozen=True)
class _Pairwise:
    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")
    labels: Literal["hard", "soft", "probability"] = knob(
        "hard", "the higher score wins; or wins with probability sigmoid(difference); or the scores are probabilities (feedback: preference_model)"
    )

    name = "online"

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """Two fresh answers per prompt and the reference's log-probs."""
        return Needs(shape="rollouts", unit="group", annotations=frozenset({"ref_logps"}), learning_rate=5e-7)

    def prepare(self, batch: Batch) -> Batch:
        """Weights: pairs without a preference (unscored, or tied under hard labels) weigh nothing and are not forwarded."""
        p_N = preference(batch, self.labels)
        usable_N = ~p_N.isnan() & ((p_N != 0.5) | (self.labels != "hard"))
        weight_N = torch.where(usable_N, uniform_group_weights(batch).to(p_N.dtype), 0.0)
        return batch.with_(group_weight_N=weight_N, active_N=usable_N)

    def rewards(self, out: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probs [B], implicit rewards of the first rows [N], of the second rows [N])."""
        assert out.logps_BT is not None
        assert batch.ref_logps_BT is not None
        logps_B = sequence_logps(out.logps_BT, batch.mask_BT)
        first_N, second_N = pairs(self.beta * (logps_B - sequence_logps(batch.ref_logps_BT, batch.mask_BT)), batch)
        return logps_B, first_N, second_N

    def dpo_terms(self, out: Outputs, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Mean]]:
        """(pair losses -p ls(z) - (1 - p) ls(-z) [N], log-probs [B], metrics)."""
        logps_B, first_N, second_N = self.rewards(out, batch)
        p_N = preference(batch, self.labels).nan_to_num(0.5)
        z_N = first_N - second_N
        return -p_N * logsigmoid(z_N) - (1 - p_N) * logsigmoid(-z_N), logps_B, self.metrics(first_N, second_N, p_N)

    def metrics(self, first_N: Tensor, second_N: Tensor, p_N: Tensor) -> dict[str, Mean]:
        """Implicit rewards of winner and loser."""
        win_N = p_N >= 0.5
        chosen_N, rejected_N = torch.where(win_N, first_N, second_N), torch.where(win_N, second_N, first_N)
        return {
            "rewards/chosen": mean(chosen_N), "rewards/rejected": mean(rejected_N), "rewards/margins": mean(chosen_N - rejected_N),
            "rewards/accuracies": mean((chosen_N > rejected_N).float()),
        }  # fmt: skip


@method("online_dpo")
@dataclass(frozen=True)
class OnlineDPO(_Pairwise):
    """DPO on two fresh answers of the policy, labelled as they come.

        z = beta [ D(y1) - D(y2) ],   L = -p ls(z) - (1 - p) ls(-z),   D = log pi - log ref

    p is 1 or 0 by the score (hard) or sigmoid(R1 - R2) (soft); mean over pairs, ties left out. Under soft labels the
    optimum is pi_ref exp(R / beta). Paper: Guo et al. 2024, "Direct language model alignment from online AI feedback".

    Use: a reward model or judge, and dpo's data has become stale. Watch: rewards/margins, the share of ties. Fails:
    two answers that are both bad still make a pair.
    """

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert batch.group_weight_N is not None
        loss_N, _, metrics = self.dpo_terms(out, batch)
        return Loss((batch.group_weight_N * loss_N).sum(), metrics)


@method("xpo")
@dataclass(frozen=True)
class XPO(_Pairwise):
    """Online DPO against the reference's answer, with an exploration bonus that pushes the policy off the reference.

        L = DPO loss on (y ~ pi, y' ~ ref) + alpha log pi(y')

    Paper: Xie et al. 2024, "Exploratory preference optimization", algorithm 1.

    Use: online_dpo keeps sampling the same answers. Watch: logps/opponent. Fails: alpha too high pushes the policy
    off the reference for its own sake.
    """

    alpha: float = knob(1e-5, "weight of the exploration bonus", "[0, inf)", "1e-6 to 1e-4")

    @property
    def needs(self) -> Needs:
        """The second answer comes from the reference."""
        return replace(super().needs, opponent="reference")

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert batch.group_weight_N is not None
        loss_N, logps_B, metrics = self.dpo_terms(out, batch)
        theirs_N = pairs(logps_B, batch)[1]
        value = (batch.group_weight_N * (loss_N + self.alpha * theirs_N)).sum()
        return Loss(value, metrics | {"logps/opponent": mean(theirs_N)})


@method("nash_md")
@dataclass(frozen=True)
class NashMD(_Pairwise):
    """Policy gradient on P(y beats y'), y' from a geometric mixture of policy and reference, with a KL to the reference.

        L = mean over pairs of -(p - 1/2) log pi(y) + beta sum_t sg(log pi - log ref)_t log pi(y_t)

    Only y trains. The fixed point for mixture 0 is the Nash equilibrium of the KL-regularised preference game.
    Paper: Munos et al. 2024, "Nash learning from human feedback", sec. 7.

    Use: preferences that are not transitive; a preference model rather than a score. Watch: win_rate drifts to a half
    as the game is solved. Fails: slow: the signal is a coin flip per pair.
    """

    detaches = True

    mixture: float = knob(0.5, "share of the reference in the opponent", "[0, 1]", "0 to 0.5")

    @property
    def needs(self) -> Needs:
        """The second answer comes from the mixture."""
        return replace(super().needs, opponent="mixture")

    def prepare(self, batch: Batch) -> Batch:
        """A tie has a gradient here (the KL), so only unscored pairs are left out."""
        p_N = preference(batch, self.labels)
        weight_N = torch.where(p_N.isnan(), 0.0, uniform_group_weights(batch).to(p_N.dtype))
        return batch.with_(group_weight_N=weight_N, active_N=~p_N.isnan())

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum over pairs."""
        assert batch.group_weight_N is not None
        assert out.logps_BT is not None
        assert batch.ref_logps_BT is not None
        logps_B, first_N, second_N = self.rewards(out, batch)
        p_N = preference(batch, self.labels).nan_to_num(0.5)
        logps_BT = torch.where(batch.mask_BT > 0, out.logps_BT, 0.0)
        gap_BT = (logps_BT - torch.where(batch.mask_BT > 0, batch.ref_logps_BT, 0.0)).detach()
        to_go_BT = gap_BT.flip(1).cumsum(1).flip(1)  # the KL of later tokens is the earlier tokens' doing as well
        pull_N = pairs((to_go_BT * logps_BT).sum(-1), batch)[0]
        mine_N = pairs(logps_B, batch)[0]
        value = (batch.group_weight_N * (-(p_N - 0.5) * mine_N + self.beta * pull_N)).sum()
        metrics = self.metrics(first_N, second_N, p_N) | {"win_rate": mean(p_N), "kl": mean(pairs(gap_BT.sum(-1), batch)[0])}
        return Loss(value, metrics)
