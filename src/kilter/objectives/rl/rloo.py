"""RLOO: the siblings' mean as the baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs, moments_of
from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked
from kilter.objectives.registry import method
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.objectives.rl.surrogates import CLIPPED, clipped_surrogate


@method("rloo")
@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """REINFORCE leave-one-out: the baseline of an answer is the mean score of its siblings.

        A_i = R_i - 1/(K-1) sum_{j != i} R_j,   R = score - beta sum_t log(pi_old / ref)
        L = mean_i -min(rho_i A_i, clip(rho_i, 1 - e_low, 1 + e_high) A_i)
        rho_i = exp(sum_t log(pi / pi_old))

    Paper: Ahmadian et al. 2024, "Back to basics"; the sequence-level clip as in TRL, inactive when a batch is
    used once.

    Use: several samples per prompt, an unbiased baseline for free. Watch: reward, entropy. Fails: with two
    samples the baseline is noisy.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    clip_low: float = knob(0.2, "lower side of the clip", "(0, 1)", "0.2")
    clip_high: float = knob(0.2, "upper side of the clip", "(0, inf)", "0.2")
    normalize: bool = knob(False, "advantages of the batch divided by their standard deviation")

    compares_siblings = True

    token_metrics: ClassVar[frozenset[str]] = CLIPPED

    @property
    def needs(self) -> Needs:
        """Of other groups the moments of the advantages, with `normalize`."""

        def advantages(batch: Batch) -> Tensor:
            return adv.rloo(self.penalised(batch), batch.group_B, batch.groups())

        return replace(super().needs, moments={"advantage": advantages} if self.normalize else {})

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R minus the mean of the group's other answers; standardised with `normalize`."""
        advantage_B = adv.rloo(score_B, batch.group_B, batch.groups())
        if not self.normalize:
            return advantage_B
        _, mean, variance = moments_of(batch, "advantage", advantage_B).unbind()
        return ((advantage_B.double() - mean) / (variance.sqrt() + adv.EPSILON)).to(advantage_B.dtype)

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-min(ratio A, clip(ratio) A), with one ratio per answer."""
        return clipped_surrogate(
            masked(log_ratio_BT, batch.mask_BT).sum(-1, keepdim=True).exp().expand_as(log_ratio_BT),
            batch,
            self.clip_low,
            self.clip_high,
        )
