"""What GRPO and its relatives share: the advantage of an answer among its siblings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kilter.batch import Batch
from kilter.objectives.knobs import knob
from kilter.objectives.rl import advantages as adv
from kilter.objectives.rl.policy_gradient import PolicyGradient


@dataclass(frozen=True)
class GroupRelative(PolicyGradient):
    """Members whose advantage is R - mean R within the group, divided by a standard deviation or by nothing.

    scale: "group", "batch" or "none".
    """

    scale: Literal["group", "batch", "none"] = knob(
        "group", "what the advantage is divided by: the standard deviation of group or batch, or nothing"
    )

    name = "group_relative"
    compares_siblings = True

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R minus the mean of the group, over the deviation that `scale` names."""
        return adv.grpo(score_B, batch.group_B, batch.groups(), self.scale)
