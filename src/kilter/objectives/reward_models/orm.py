"""Outcome reward model."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import binary_cross_entropy_with_logits

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.ops import mean
from kilter.objectives.registry import method


@method("orm")
@dataclass(frozen=True)
class ORM:
    """Predicts from the whole answer whether its outcome is right.

        L = -1/B sum_i [ c_i log sigmoid(r_i) + (1 - c_i) log(1 - sigmoid(r_i)) ]
        c = 1 for correct, 0 for incorrect

    r is the scalar head on the last token, a log-odds. Paper: Cobbe et al. 2021, "Training verifiers to solve
    math word problems".

    Use: answers with a known outcome; best-of-n at inference. Watch: eval_accuracy against the share of
    correct answers. Fails: right answers for wrong reasons are rewarded; process supervision tells them
    apart.
    """

    @property
    def needs(self) -> Needs:
        """One score per labelled answer."""
        return Needs(
            shape="unpaired",
            unit="row",
            models=frozenset({"reward"}),
            outputs=frozenset({"scores"}),
            metrics=frozenset({"accuracy", "rewards/chosen", "rewards/rejected"}),
        )

    def prepare(self, batch: Batch) -> Batch:
        """Nothing to write: every answer of the optimizer step weighs the same."""
        return batch

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Sum of cross-entropies over the answers of the optimizer step."""
        assert out.scores_B is not None
        correct_B = (batch.score_B > 0).to(out.scores_B.dtype)
        loss_B = binary_cross_entropy_with_logits(out.scores_B, correct_B, reduction="none")
        metrics = {
            "accuracy": mean(((out.scores_B > 0) == (correct_B > 0)).float()),
            "rewards/chosen": mean(out.scores_B, correct_B.float()),
            "rewards/rejected": mean(out.scores_B, 1 - correct_B.float()),
        }
        return Loss(loss_B.sum() / batch.n_rows_total, metrics)
