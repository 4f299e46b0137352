"""Nash-MD: the equilibrium of a preference game."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.ops import mean, pairs, uniform_group_weights
from kilter.objectives.registry import method
from kilter.objectives.rl.online_preference import OnlinePairs, preference


@method("nash_md")
@dataclass(frozen=True)
class NashMD(OnlinePairs):
    """Policy gradient on P(y beats y'), y' from a geometric mixture of policy and reference.

        L = mean over pairs of -(p - 1/2) log pi(y) + beta sum_t sg(log pi - log ref)_t log pi(y_t)

    Only y trains. The fixed point for mixture 0 is the Nash equilibrium of the KL-regularised preference
    game. Paper: Munos et al. 2024, "Nash learning from human feedback", sec. 7.

    Use: preferences that are not transitive; a preference model rather than a score. Watch: win_rate drifts
    to a half as the game is solved. Fails: slow: the signal is a coin flip per pair.
    """

    detaches = True

    mixture: float = knob(0.5, "share of the reference in the opponent", "[0, 1]", "0 to 0.5")

    @property
    def needs(self) -> Needs:
        """The second answer comes from the mixture."""
        base = super().needs
        return replace(
            base,
            opponent="mixture",
            settings={"mixture": self.mixture},
            metrics=base.metrics | {"win_rate", "kl"},
        )

    def prepare(self, batch: Batch) -> Batch:
        """A tie has a gradient here (the KL), so only unscored pairs are left out."""
        p_N = preference(batch, self.labels)
        weight_N = torch.where(p_N.isnan(), 0.0, uniform_group_weights(batch).to(p_N.dtype))
        return batch.with_(group_weight_N=weight_N, active_N=~p_N.isnan())

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum over pairs."""
        assert batch.group_weight_N is not None
        assert out.logps_BT is not None
        assert batch.ref_logps_BT is not None
        logps_B, first_N, second_N = self.rewards(out, batch)
        p_N = preference(batch, self.labels).nan_to_num(0.5)
        logps_BT = torch.where(batch.mask_BT > 0, out.logps_BT, 0.0)
        gap_BT = (logps_BT - torch.where(batch.mask_BT > 0, batch.ref_logps_BT, 0.0)).detach()
        to_go_BT = (
            gap_BT.flip(1).cumsum(1).flip(1)
        )  # the KL of later tokens is the earlier tokens' doing as well
        pull_N = pairs((to_go_BT * logps_BT).sum(-1), batch)[0]
        mine_N = pairs(logps_B, batch)[0]
        value = (batch.group_weight_N * (-(p_N - 0.5) * mine_N + self.beta * pull_N)).sum()
        metrics = self.metrics(first_N, second_N, p_N) | {
            "win_rate": mean(p_N),
            "kl": mean(pairs(gap_BT.sum(-1), batch)[0]),
        }
        return Loss(value, metrics)
