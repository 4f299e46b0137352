"""Noise contrastive alignment."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("nca")
@dataclass(frozen=True)
class NCA(Pairwise):
    """Classifies each answer against the reference's noise, which holds up the likelihood of the chosen one.

        L = -log sigmoid(r(w)) - 1/2 log sigmoid(-r(w)) - 1/2 log sigmoid(-r(l)),   r = beta (l - l_ref)

    Paper: Chen et al. 2024, "Noise contrastive alignment of language models with explicit rewards".

    Use: logps/chosen falls under dpo. Watch: rewards/chosen stays positive. Fails: slower than dpo on clean
    pairs.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-ls(r(w)) - ls(-r(w)) / 2 - ls(-r(l)) / 2."""
        w_N, l_N = self.reward(w), self.reward(l)
        return -logsigmoid(w_N) - 0.5 * logsigmoid(-w_N) - 0.5 * logsigmoid(-l_N)
