"""DPO with the bias of flipped labels removed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("robust_dpo")
@dataclass(frozen=True)
class RobustDPO(Pairwise):
    """An unbiased estimate of DPO's loss on clean labels from labels that are flipped with probability e.

        L = [ -(1 - e) log sigmoid(z) + e log sigmoid(-z) ] / (1 - 2 e)

    z is DPO's. Paper: Chowdhury et al. 2024, "Provably robust DPO".

    Use: when the share of wrong labels is known (agreement of annotators, an audit). Watch: rewards/margins.
    Fails: unbounded below, so it overfits harder than dpo when e is set too high.
    """

    label_smoothing: float = knob(0.1, "probability e that a label is flipped", "[0, 0.5)", "0.05 to 0.3")

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """(-(1 - e) ls(z) + e ls(-z)) / (1 - 2 e)."""
        z_N, e = self.margin(w, l), self.label_smoothing
        return (-(1 - e) * logsigmoid(z_N) + e * logsigmoid(-z_N)) / (1 - 2 * e)
