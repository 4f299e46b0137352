"""Sequence likelihood calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("slic")
@dataclass(frozen=True)
class SLiC(Pairwise):
    """Separates the log-probs of the two answers by a margin, and imitates to stay near the demonstrations.

        L = max(0, delta - beta (l(w) - l(l))) + nll_weight * NLL(w)

    l in nats; NLL per token of the chosen answers. No reference. Paper: Zhao et al. 2023, "SLiC-HF".

    Use: no memory for a reference, and chosen answers worth imitating. Watch: nll, of the chosen. Fails:
    summed log-probs favour short answers.
    """

    beta: float = knob(1.0, "scale of the log-prob gap", "(0, inf)", "0.1 to 1")
    delta: float = knob(1.0, "margin, in units of beta nats", "[0, inf)", "0.1 to 5")
    nll_weight: float = knob(0.1, "weight of the imitation term", "[0, inf)", "0.01 to 1")

    uses_reference: ClassVar[bool] = False

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """max(0, delta - z)."""
        return (self.delta - self.margin(w, l)).clamp_min(0)

    def imitation(self) -> float:
        """Weight of the imitation term."""
        return self.nll_weight
