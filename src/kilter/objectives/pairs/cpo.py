"""Contrastive preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.ops import smoothed
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("cpo")
@dataclass(frozen=True)
class CPO(Pairwise):
    """DPO with a uniform reference, held in place by imitation.

        L = -(1 - e) log sigmoid(z) - e log sigmoid(-z) + alpha NLL(w),   z = beta (l(w) - l(l))

    l in nats; NLL per token of the chosen answers. No reference. Paper: Xu et al. 2024, "Contrastive
    preference optimization".

    Use: no memory for a reference; translation and other tasks with one good answer. Watch: nll, of the
    chosen. Fails: summed log-probs favour short answers.
    """

    alpha: float = knob(1.0, "weight of the imitation term", "[0, inf)", "0.1 to 1")
    label_smoothing: float = knob(0.0, "probability e that a label is flipped", "[0, 0.5)", "0 to 0.3")

    uses_reference: ClassVar[bool] = False
    rate: ClassVar[float] = 1e-6

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """The logistic loss of the log-prob gap."""
        return smoothed(self.margin(w, l), self.label_smoothing)

    def imitation(self) -> float:
        """Weight of the imitation term."""
        return self.alpha
