"""Online DPO: DPO on two fresh answers."""

from __future__ import annotations

from dataclasses import dataclass

from kilter.batch import Batch, Loss, Outputs
from kilter.objectives.registry import method
from kilter.objectives.rl.online_preference import OnlinePairs


@method("online_dpo")
@dataclass(frozen=True)
class OnlineDPO(OnlinePairs):
    """DPO on two fresh answers of the policy, labelled as they come.

        z = beta [ D(y1) - D(y2) ],   L = -p ls(z) - (1 - p) ls(-z),   D = log pi - log ref

    p is 1 or 0 by the score (hard) or sigmoid(R1 - R2) (soft); mean over pairs, ties left out. Under soft
    labels the optimum is pi_ref exp(R / beta). Paper: Guo et al. 2024, "Direct language model alignment from
    online AI feedback".

    Use: a reward model or judge, and dpo's data has become stale. Watch: rewards/margins, the share of ties.
    Fails: two answers that are both bad still make a pair.
    """

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert batch.group_weight_N is not None
        loss_N, _, metrics = self.dpo_terms(out, batch)
        return Loss((batch.group_weight_N * loss_N).sum(), metrics)
