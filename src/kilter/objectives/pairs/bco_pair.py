"""BCO on pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("bco_pair")
@dataclass(frozen=True)
class BCOPair(Pairwise):
    """Classifies both answers of a pair by their implicit rewards, each on its own.

        L = -log sigmoid(r(w)) - log sigmoid(-r(l)),   r = beta (l - l_ref)

    bco without its shift, on pairs. Paper: Jung et al. 2024, "Binary classifier optimization for large
    language model alignment".

    Use: pairs in which both answers should be judged absolutely. Watch: rewards/chosen above and
    rewards/rejected below 0. Fails: when all answers of the data are good or all bad; then dpo.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-ls(r(w)) - ls(-r(l))."""
        return -logsigmoid(self.reward(w)) - logsigmoid(-self.reward(l))
