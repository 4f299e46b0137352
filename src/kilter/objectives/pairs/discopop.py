"""DiscoPOP: a loss found by a language model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.ops import growth
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("discopop")
@dataclass(frozen=True)
class DiscoPOP(Pairwise):
    """Logistic and exponential loss, blended by the margin itself.

        m = sigmoid(z / tau),   L = -(1 - m) log sigmoid(z) + m exp(-z)

    z is DPO's. Paper: Lu et al. 2024, "Discovering preference optimization algorithms with and for large
    language models", eq. 5.

    Use: as an alternative link when dpo is tuned and stuck. Watch: rewards/margins. Fails: not convex; a
    local minimum at small negative z can hold noisy pairs.
    """

    tau: float = knob(0.05, "width of the blend", "(0, inf)", "0.05")

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """Logistic and exponential loss, blended by sigmoid(z / tau)."""
        z_N = self.margin(w, l)
        blend_N = (z_N / self.tau).sigmoid()
        # m exp(-z) as one exponential: neither factor overflows on its own.
        return -(1 - blend_N) * logsigmoid(z_N) + growth(logsigmoid(z_N / self.tau) - z_N) + 1
