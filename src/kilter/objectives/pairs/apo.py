"""Anchored preference optimisation: apo_zero and apo_down."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("apo_zero")
@dataclass(frozen=True)
class APOZero(Pairwise):
    """Raises the chosen answer and lowers the rejected one, each on its own.

        L = 1 - sigmoid(r(w)) + sigmoid(r(l)),   r = beta (l - l_ref)

    Paper: D'Oosterlinck et al. 2024, "Anchored preference optimization", eq. 7.

    Use: the chosen answers are better than what the policy writes. Watch: rewards/chosen positive,
    rewards/rejected negative. Fails: on chosen answers worse than the policy's own; then apo_down.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """1 - s(r(w)) + s(r(l))."""
        return 1 - self.reward(w).sigmoid() + self.reward(l).sigmoid()


@method("apo_down")
@dataclass(frozen=True)
class APODown(Pairwise):
    """Lowers both answers, the rejected one more.

        L = sigmoid(r(w)) + 1 - sigmoid(r(w) - r(l)),   r = beta (l - l_ref)

    Paper: D'Oosterlinck et al. 2024, "Anchored preference optimization", eq. 8.

    Use: the policy already writes better than the chosen answers. Watch: rewards/margins grow while both
    rewards fall. Fails: on chosen answers better than the policy's own.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """s(r(w)) + 1 - s(z)."""
        return self.reward(w).sigmoid() + 1 - self.margin(w, l).sigmoid()
