"""What GRPO and its relatives share: the advantage of an answer among its siblings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from kilter.batch import Batch, Needs, moments_of
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

    @property
    def needs(self) -> Needs:
        """Of other groups the deviation of the scores, where the advantages are divided by it."""
        return replace(super().needs, moments={"score": self.penalised} if self.scale == "batch" else {})

    def credit(self, score_B: Tensor, batch: Batch) -> Tensor:
        """R minus the mean of the group, over the deviation that `scale` names."""
        return self.relative(score_B, batch)

    def relative(self, score_B: Tensor, batch: Batch, population: bool = False) -> Tensor:
        """The same; `population` takes the population form of the deviation."""
        over = moments_of(batch, "score", score_B) if self.scale == "batch" else None
        return adv.grpo(score_B, batch.group_B, batch.groups(), self.scale, population, over)
