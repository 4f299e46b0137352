"""Supervised fine-tuning: imitate the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.knobs import check, knob
from kilter.objectives.ops import masked, mean, sequence_logps
from kilter.objectives.registry import method


@method("sft")
@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the completion, per trained token of the optimizer step.

        token:     L = - sum_i sum_t mask_it log pi(y_it | x_i, y_i<t) / sum_i |y_i|
        sequence:  L = - 1/B sum_i 1/|y_i| sum_t mask_it log pi(y_it | x_i, y_i<t)

    Every assistant turn is trained on; |y| counts masked tokens; both denominators span the whole optimizer
    step and all ranks. Paper: Ouyang et al. 2022, "Training language models to follow instructions", sec. 3.

    Use: first, on demonstrations of the task. Watch: eval_nll rising while nll falls is overfitting. Fails:
    copies the demonstrations' faults as readily as their merits.
    """

    normalize: Literal["token", "sequence"] = knob("token", "each token counts the same, or each answer")

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """Policy log-probs, rows independent."""
        metrics = frozenset({"nll", "logps/completion"})
        return Needs(shape="demonstrations", unit="row", learning_rate=2e-5, metrics=metrics)

    def prepare(self, batch: Batch) -> Batch:
        """Writes weight_BT: mask over the denominator."""
        if self.normalize == "token":
            return batch.with_(weight_BT=batch.mask_BT / batch.n_tokens_total)
        per_row_B1 = batch.mask_BT.sum(-1, keepdim=True).clamp_min(1.0) * batch.n_rows_total
        return batch.with_(weight_BT=batch.mask_BT / per_row_B1)

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of token negative log-likelihoods."""
        assert out.logps_BT is not None
        assert batch.weight_BT is not None
        logps_BT = masked(out.logps_BT, batch.mask_BT)
        value = -(batch.weight_BT * logps_BT).sum()
        metrics = {
            "nll": mean(-logps_BT, batch.mask_BT),
            "logps/completion": mean(sequence_logps(logps_BT, batch.mask_BT)),
        }
        return Loss(value, metrics)
