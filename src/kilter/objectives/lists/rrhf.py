"""RRHF: rank responses by mean log-prob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.lists.listwise import Listwise, gaps, upper
from kilter.objectives.registry import method


@method("rrhf")
@dataclass(frozen=True)
class RRHF(Listwise):
    """A hinge over all pairs of a list on the mean log-prob, and imitation of the best answer.

        L = sum_{i above j} max(0, lbar_j - lbar_i) + nll_weight * NLL(best)

    lbar in nats per token; NLL per token of the best answers. No reference. Paper: Yuan et al. 2023, "RRHF:
    rank responses to align language models with human feedback". If labels are soft, a pair weighs 2 p - 1:
    under the expected hinge, the best gap would be zero.

    Use: ranked answers from several sources and no memory for a reference. Watch: nll, of the best. Fails:
    the hinge stops at zero margin, so the preference stays weak.
    """

    beta: float = knob(1.0, "weight of the ranking term", "(0, inf)", "1")
    nll_weight: float = knob(1.0, "weight of the imitation term", "[0, inf)", "0.1 to 1")

    uses_reference: ClassVar[bool] = False
    soft: ClassVar[bool] = True

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NKK: Tensor) -> Tensor:
        """Hinge over pairs in the wrong order, each as strong as its label is certain."""
        weight_NKK = (2 * p_NKK - 1).clamp_min(0)
        hinge_NKK = (-gaps(score_NK)).clamp_min(0)
        return self.beta * torch.where(upper(valid_NK), weight_NKK * hinge_NKK, 0.0).sum((1, 2))

    def list_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor) -> Tensor:
        """Hinge over pairs in the wrong order."""
        gap_NKK = gaps(score_NK)
        return self.beta * (-gap_NKK).clamp_min(0).mul(upper(valid_NK)).sum((1, 2))

    def imitation(self) -> float:
        """Weight of the imitation term."""
        return self.nll_weight
