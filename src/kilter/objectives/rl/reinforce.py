"""REINFORCE: the plain policy gradient with the KL in the reward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs, moments_of
from kilter.objectives.knobs import knob
from kilter.objectives.registry import method
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.objectives.rl.surrogates import score_function
from kilter.objectives.rl.weights import Aggregation


@method("reinforce")
@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """The plain policy gradient on whole answers, KL in the reward, with the batch's mean as baseline.

        A = R - beta sum_t log(pi_old / ref) - b,   L = 1/tokens sum_it -A log pi

    b is the mean over the batch, or 0. Paper: Williams 1992, "Simple statistical gradient-following
    algorithms".

    Use: the plainest baseline, one sample per prompt. Watch: grad_norm. Fails: high variance; needs large
    batches.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Aggregation = "token"
    baseline: Literal["batch", "none"] = knob(
        "batch", "what is subtracted from the score: the batch mean, or nothing"
    )

    @property
    def needs(self) -> Needs:
        """Of other groups the mean score, where that is the baseline."""
        return replace(super().needs, moments={"score": self.penalised} if self.baseline == "batch" else {})

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R - b."""
        if self.baseline == "batch":
            _, mean, _ = moments_of(batch, "score", score_B)
            score_B = (score_B.double() - mean).to(score_B.dtype)
        return score_B.nan_to_num(0.0)

    uses_ratio = False

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-A log pi."""
        return score_function(out, batch)
