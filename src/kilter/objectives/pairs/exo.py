"""Exact optimisation: reverse KL to the preference distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("exo")
@dataclass(frozen=True)
class EXO(Pairwise):
    """The reverse KL between the policy's preference and the labels', where DPO minimises the forward one.

        q = sigmoid(z),   L = q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e)

    z is DPO's; the labels prefer w with probability 1 - e. Paper: Ji et al. 2024, "Towards efficient exact
    optimization of language model alignment", eq. 16.

    Use: capacity is short, and covering one good mode beats averaging. Watch: rewards/margins. Fails: e too
    small makes the loss nearly linear in z.
    """

    label_smoothing: float = knob(1e-3, "probability e that a label is flipped", "(0, 0.5)", "0.001 to 0.1")

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """KL of the policy's preference to the labels'."""
        z_N, e = self.margin(w, l), self.label_smoothing
        return z_N.sigmoid() * (logsigmoid(z_N) - math.log1p(-e)) + (-z_N).sigmoid() * (
            logsigmoid(-z_N) - math.log(e)
        )
