"""XPO: online DPO with an exploration bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.ops import mean, pairs
from kilter.objectives.registry import method
from kilter.objectives.rl.online_preference import OnlinePairs


@method("xpo")
@dataclass(frozen=True)
class XPO(OnlinePairs):
    """Online DPO against the reference's answer, with an exploration bonus that pushes the policy off it.

        L = DPO loss on (y ~ pi, y' ~ ref) + alpha log pi(y')

    Paper: Xie et al. 2024, "Exploratory preference optimization", algorithm 1.

    Use: online_dpo keeps sampling the same answers. Watch: logps/opponent. Fails: alpha too high pushes the
    policy off the reference for its own sake.
    """

    alpha: float = knob(1e-5, "weight of the exploration bonus", "[0, inf)", "1e-6 to 1e-4")

    @property
    def needs(self) -> Needs:
        """The second answer comes from the reference."""
        base = super().needs
        return replace(base, opponent="reference", metrics=base.metrics | {"logps/opponent"})

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert batch.group_weight_N is not None
        loss_N, logps_B, metrics = self.dpo_terms(out, batch)
        theirs_N = pairs(logps_B, batch)[1]
        value = (batch.group_weight_N * (loss_N + self.alpha * theirs_N)).sum()
        return Loss(value, metrics | {"logps/opponent": mean(theirs_N)})
