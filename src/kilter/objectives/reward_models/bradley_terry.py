"""Reward models from comparisons."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.grouped import Grouped
from kilter.objectives.knobs import knob
from kilter.objectives.ops import PREFERENCE, expected, pairs, preference_metrics
from kilter.objectives.registry import method


@method("bradley_terry")
@dataclass(frozen=True)
class BradleyTerry(Grouped):
    """Pairwise reward model: P(w > l) = sigmoid(r(w) - r(l)).

        L = -log sigmoid(r(w) - r(l) - m) + c (r(w) + r(l))^2

    r is the scalar head on the last token; m the pair's margin (data column `margin`, 0 when absent), c the
    centring coefficient that fixes the free constant of r. Mean over pairs. Papers: Bradley & Terry 1952;
    Touvron et al. 2023 (margin); Eisenstein et al. 2023 (centring). If the label is soft, L is the expected
    loss p L(w, l) + (1 - p) L(l, w).

    Use: the reward of PPO and best-of-n. Watch: eval_rewards/accuracies, and its interval in the evaluation.
    Fails: it learns the length and style of the chosen answers where they differ.
    """

    centring: float = knob(
        0.01, "coefficient c that fixes the constant of the scores", "[0, inf)", "0.01, or 0"
    )

    @property
    def needs(self) -> Needs:
        """One score per completion; the two rows of a pair together."""
        return Needs(
            shape="pairs",
            unit="group",
            models=frozenset({"reward"}),
            outputs=frozenset({"scores"}),
            soft=True,
            metrics=self.reported(PREFERENCE),
        )

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        assert out.scores_B is not None
        chosen_N, rejected_N = pairs(out.scores_B, batch)
        gap_N = chosen_N - rejected_N
        loss_N = -logsigmoid(gap_N - batch.margin_N)
        if "p_B" in batch.extra:
            loss_N = expected(loss_N, -logsigmoid(-gap_N - batch.margin_N), batch)
        loss_N = loss_N + self.centring * (chosen_N + rejected_N).square()
        return self.summed(loss_N, out, batch, preference_metrics(chosen_N, rejected_N))
