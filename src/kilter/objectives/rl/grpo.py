"""Group relative policy optimisation and relatives that differ in normalisation, clip and denominator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs
from kilter.errors import UserError
from kilter.objectives.knobs import knob
from kilter.objectives.registry import method
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.group_relative import GroupRelative
from kilter.objectives.rl.surrogates import CLIPPED, clipped_surrogate
from kilter.objectives.rl.weights import Aggregation


@method("grpo")
@dataclass(frozen=True)
class GRPO(GroupRelative):
    """Clipped policy gradient whose baseline is the group's own mean score.

        A = (R - mean R) / (std R + 1e-4) within the group
        L = mean_i mean_t [ -min(rho A, clip(rho, 1 - e_low, 1 + e_high) A) + beta k3 ]

    rho is the token ratio to the policy that sampled (1 when a batch is used once). R and A have no unit; KL
    in nats. Papers: Shao et al. 2024, "DeepSeekMath", eq. 21; Yu et al. 2025 (DAPO: asymmetric clip, token
    aggregation).

    Use: verifiable rewards and several samples per prompt; no critic. Watch: frac_reward_zero_std: groups
    without a spread teach nothing. Fails: the division by the group's deviation overweighs very easy and very
    hard prompts; then dr_grpo.
    """

    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2; 0.28 in DAPO")
    dual_clip: float | None = knob(
        None, "bound of the loss where A < 0, in units of |A|; null: none", "(1, inf)", "3, or null"
    )
    advantage: Literal["grpo", "rloo", "passk", "prm_token"] = knob(
        "grpo", "group mean, leave-one-out, pass@k, or token rewards of a process model"
    )
    population: bool = knob(False, "population instead of sample standard deviation")
    k: int = knob(4, "k of pass@k", "[1, inf)", "4")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage in ("passk", "prm_token") and self.kl_in == "reward" and self.beta > 0:
            raise UserError(
                "method.kl_in",
                self.kl_in,
                f"cannot go with advantage {self.advantage}, which reads right or wrong, or rewards of steps",
                "use kl_in: loss",
            )

    token_metrics: ClassVar[frozenset[str]] = CLIPPED

    @property
    def needs(self) -> Needs:
        """Rollouts; pass@k wants k answers, and a process model's advantage the scores of its steps."""
        base = super().needs
        if self.advantage == "passk":
            return replace(base, siblings=max(self.k, base.siblings))
        if self.advantage == "prm_token":
            return replace(base, annotations=base.annotations | {"token_scores"})
        return base

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R compared with the group's other answers, as `advantage` says."""
        n = batch.groups()
        if self.advantage == "rloo":
            return adv.rloo(score_B, batch.group_B, n)
        if self.advantage == "passk":
            return adv.passk(score_B, batch.group_B, n, self.k)
        if self.advantage == "prm_token":
            assert batch.token_score_BT is not None, "prm_token needs feedback with step scores"
            return adv.prm_token(
                batch.token_score_BT.to(batch.mask_BT.dtype), batch.mask_BT, batch.group_B, n
            )
        return self.relative(score_B, batch, self.population)

    def ratio(self, log_ratio_BT: Tensor, batch: Batch) -> Tensor:
        """pi / pi_old of each token, [B, T]."""
        return log_ratio_BT.exp()

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-min(ratio A, clip(ratio) A) at every token."""
        return clipped_surrogate(
            self.ratio(log_ratio_BT, batch).expand_as(log_ratio_BT),
            batch,
            self.clip_low,
            self.clip_high,
            self.dual_clip,
        )


@method("dr_grpo")
@dataclass(frozen=True)
class DrGRPO(GRPO):
    """GRPO without its two biases, the divisions by the standard deviation and by the answer's own length.

        A = R - mean R,   L = 1/(B L_max) sum_it -min(rho A, clip(rho) A)

    L_max is the length limit of the rollouts in tokens. Paper: Liu et al. 2025, "Understanding R1-Zero-like
    training".

    Use: grpo makes answers longer and longer, or overweighs nearly solved prompts. Watch:
    completions/mean_length. Fails: gradients shrink with the spread of the rewards, so the learning rate
    needs to be higher than grpo's.
    """

    scale: Literal["group", "batch", "none"] = "none"
    loss_aggregation: Aggregation = "constant"


@method("dapo")
@dataclass(frozen=True)
class DAPO(GRPO):
    """GRPO with a wider upper clip, equal weight for every token of the step, and truncated answers left out.

        L = 1/tokens sum_it -min(rho A, clip(rho, 0.8, 1.28) A),   A as in GRPO

    Use it with `select: drop_constant` (dynamic sampling) and the soft over-long penalty of the length
    feedback. Paper: Yu et al. 2025, "DAPO: an open-source LLM reinforcement learning system at scale".

    Use: long reasoning, where grpo's entropy collapses. Watch: entropy, completions/clipped_ratio. Fails:
    with short answers it differs from grpo in little but the clip.
    """

    clip_high: float = 0.28
    loss_aggregation: Aggregation = "token"
    mask_truncated: bool = True
