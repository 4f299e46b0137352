"""ReMax: the greedy answer as the baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs
from kilter.objectives.registry import method
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.objectives.rl.surrogates import score_function
from kilter.objectives.rl.weights import Aggregation


@method("remax")
@dataclass(frozen=True)
class ReMax(PolicyGradient):
    """REINFORCE whose baseline is the score of the greedy answer to the same prompt.

        A = R(y) - R(greedy) - beta sum_t log(pi_old / ref),   L = 1/tokens sum_it -A log pi

    One greedy answer per prompt is sampled and scored besides. Paper: Li et al. 2024, "ReMax".

    Use: one sample per prompt and no critic; the greedy answer is the baseline. Watch: reward of the greedy
    answer against the samples'. Fails: an extra rollout per prompt; a strong greedy answer leaves only
    negative advantages.
    """

    beta: float = 0.05
    kl_in: Literal["loss", "reward"] = "reward"
    loss_aggregation: Aggregation = "token"

    @property
    def needs(self) -> Needs:
        """Rollouts with the score of a greedy answer beside them."""
        base = super().needs
        return replace(base, annotations=base.annotations | {"greedy_score"}, moments={})

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R - R(greedy)."""
        greedy_N = batch.extra["greedy_score_N"].to(score_B.dtype)
        return (score_B - greedy_N[batch.group_B]).nan_to_num(0.0)

    uses_ratio = False

    def token_loss(self, log_ratio_BT: Tensor, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """-A log pi."""
        return score_function(out, batch)
