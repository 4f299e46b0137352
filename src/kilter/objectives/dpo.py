"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from kilter.errors import UserError
from kilter.objectives.ops import mean, pairs, sequence_logps, uniform_group_weights
from kilter.objectives.registry import objectives
from kilter.types import Batch, Loss, Needs, Outputs


@objectives.register("dpo")
@dataclass(frozen=True)
class DPO:
    """Fits the policy to preferences through its implicit reward beta log pi/pi_ref.

        z = beta [ (l(w) - l_ref(w)) - (l(l) - l_ref(l)) ]
        L = -(1 - e) log sigmoid(z) - e log sigmoid(-z)

    l is the summed log-prob (nats) of chosen w and rejected l; e is the probability that a label is flipped
    (conservative DPO). Mean over pairs. Paper: Rafailov et al. 2023, "Direct Preference Optimization", eq. 7.

    Fields: beta > 0, inverse strength of the pull to the reference, usually 0.01 to 0.5; label_smoothing e in [0, 0.5).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError("dpo.beta", self.beta, "must be above 0", "use a value between 0.01 and 0.5; 0.1 is the usual start")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError("dpo.label_smoothing", self.label_smoothing, "must lie in [0, 0.5)", "give the share of flipped labels")

    @property
    def needs(self) -> Needs:
        """Policy and reference log-probs; the two rows of a pair together."""
        return Needs(shape="pairs", unit="group", annotations=frozenset({"ref_logps"}), learning_rate=5e-6)

    def prepare(self, batch: Batch) -> Batch:
        """Every pair of the optimizer step weighs the same."""
        return batch.with_(group_weight_N=uniform_group_weights(batch))

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert out.logps_BT is not None
        assert batch.ref_logps_BT is not None
        assert batch.group_weight_N is not None
        logps_B = sequence_logps(out.logps_BT, batch.mask_BT)
        reward_B = self.beta * (logps_B - sequence_logps(batch.ref_logps_BT, batch.mask_BT))
        chosen_N, rejected_N = pairs(reward_B, batch)
        z_N = chosen_N - rejected_N
        e = self.label_smoothing
        loss_N = -(1 - e) * logsigmoid(z_N) - e * logsigmoid(-z_N)
        logps_chosen_N, logps_rejected_N = pairs(logps_B, batch)
        metrics = {
            "rewards/chosen": mean(chosen_N),
            "rewards/rejected": mean(rejected_N),
            "rewards/accuracies": mean((z_N > 0).float()),
            "rewards/margins": mean(z_N),
            "logps/chosen": mean(logps_chosen_N),
            "logps/rejected": mean(logps_rejected_N),
        }
        return Loss((batch.group_weight_N * loss_N).sum(), metrics)
