"""AlphaPO: SimPO with a reshaped reward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.ops import growth
from kilter.objectives.pairs.simpo import SimPO
from kilter.objectives.pairwise import Side
from kilter.objectives.registry import method


@method("alphapo")
@dataclass(frozen=True)
class AlphaPO(SimPO):
    """Bends SimPO's reward, so that the likelihood of the chosen answer is less displaced.

        r(y) = beta (1 - exp(-alpha lbar(y))) / alpha;   L = -log sigmoid(r(w) - r(l) - gamma)

    alpha -> 0 is simpo. No reference. Paper: Gupta et al. 2025, "AlphaPO: reward shape matters for LLM
    alignment".

    Use: when simpo lets logps/chosen collapse. Watch: rewards/margins, logps/chosen. Fails: alpha above 0
    makes unlikely answers very expensive: exp(-alpha lbar) grows fast.
    """

    alpha: float = knob(0.25, "bend of the reward; 0 is simpo", "[-5, 5]", "-0.25 to 0.25")

    def reward(self, side: Side) -> Tensor:
        """beta (1 - exp(-alpha lbar)) / alpha."""
        if self.alpha == 0:
            return super().reward(side)
        return -self.beta / self.alpha * growth(-self.alpha * side.mean_N)
