"""DPO's margin under a hinge."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("hinge")
@dataclass(frozen=True)
class Hinge(Pairwise):
    """DPO's margin under a hinge: pairs beyond it no longer train.

        L = max(0, 1 - z)

    z is DPO's. Paper: Liu et al. 2023, "Statistical rejection sampling improves preference optimization".

    Use: when dpo pushes settled pairs on and on. Watch: rewards/margins settle near 1. Fails: no gradient, no
    learning, once all pairs pass.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """max(0, 1 - z)."""
        return (1 - self.margin(w, l)).clamp_min(0)
