"""What preference objectives on two fresh answers share: who won, implicit rewards, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Outputs
from kilter.objectives.knobs import check, knob
from kilter.objectives.ops import (
    PREFERENCE,
    log_ratios,
    pairs,
    preference_metrics,
    sequence_logps,
    smoothed,
    uniform_group_weights,
)


def preference(batch: Batch, labels: str) -> Tensor:
    """P(first row of the pair preferred), [N]; NaN unscored.

    hard: 1, 1/2 or 0 by score; soft: sigmoid of the score difference; probability: the first score itself,
    which a preference model gives as P(first beats second).
    """
    first_N, second_N = pairs(batch.score_B.to(batch.mask_BT.dtype), batch)
    gap_N = first_N - second_N
    if labels == "probability":
        return torch.where(gap_N.isnan(), gap_N, first_N).clamp(0, 1)
    return torch.sigmoid(gap_N) if labels == "soft" else (gap_N.sign() + 1) / 2


@dataclass(frozen=True)
class OnlinePairs:
    """Base of the methods that compare two fresh answers to a prompt; see the members."""

    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")
    labels: Literal["hard", "soft", "probability"] = knob(
        "hard",
        "the higher score wins; or wins with probability sigmoid(difference); "
        "or the scores are probabilities (feedback: preference_model)",
    )

    name = "online"

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """Two fresh answers per prompt and the reference's log-probs."""
        return Needs(
            shape="rollouts",
            unit="group",
            annotations=frozenset({"ref_logps"}),
            learning_rate=5e-7,
            moments={},
            metrics=PREFERENCE,
        )

    def prepare(self, batch: Batch) -> Batch:
        """Weights: 0 for a pair that is unscored, or tied under hard labels, which is then not forwarded."""
        p_N = preference(batch, self.labels)
        usable_N = ~p_N.isnan() & ((p_N != 0.5) | (self.labels != "hard"))
        weight_N = torch.where(usable_N, uniform_group_weights(batch).to(p_N.dtype), 0.0)
        return batch.with_(group_weight_N=weight_N, active_N=usable_N)

    def rewards(self, out: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probs [B], implicit rewards of the first rows [N], of the second rows [N])."""
        assert out.logps_BT is not None
        logps_B = sequence_logps(out.logps_BT, batch.mask_BT)
        first_N, second_N = pairs(
            self.beta * log_ratios(out.logps_BT, batch.ref_logps_BT, batch.mask_BT), batch
        )
        return logps_B, first_N, second_N

    def dpo_terms(self, out: Outputs, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Mean]]:
        """(pair losses -p ls(z) - (1 - p) ls(-z) [N], log-probs [B], metrics)."""
        logps_B, first_N, second_N = self.rewards(out, batch)
        p_N = preference(batch, self.labels).nan_to_num(0.5)
        return smoothed(first_N - second_N, 1 - p_N), logps_B, self.metrics(first_N, second_N, p_N)

    def metrics(self, first_N: Tensor, second_N: Tensor, p_N: Tensor) -> dict[str, Mean]:
        """Implicit rewards of winner and loser."""
        win_N = p_N >= 0.5
        return preference_metrics(
            torch.where(win_N, first_N, second_N), torch.where(win_N, second_N, first_N)
        )
