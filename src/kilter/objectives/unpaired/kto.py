"""Kahneman-Tversky optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Needs, Objective
from kilter.objectives.knobs import knob
from kilter.objectives.ops import mean
from kilter.objectives.registry import method
from kilter.objectives.unpaired.judged import Judged, balanced, desirable
from kilter.types import Group


@method("kto")
@dataclass(frozen=True)
class KTO(Judged):
    """Prospect theory on thumbs: answers are gains or losses against a reference point z0.

        L = mean of  lam_D (1 - sigmoid(beta D - z0))  over desirable,
                     lam_U (1 - sigmoid(z0 - beta D))  over undesirable
        z0 = beta max(0, mean D over mismatched (x, y')),   detached,   D = l - l_ref

    Gains and losses have a weight each. y' is the answer to another prompt of the data; the mean spans the
    optimizer step and all ranks. Weights left at null are balanced: n_D lam_D = n_U lam_U. Paper: Ethayarajh
    et al. 2024, "KTO: model alignment as prospect theoretic optimization".

    Use: thumbs up and down that do not come in pairs. Watch: kl (z0 / beta), rewards/chosen against
    rewards/rejected. Fails: on very few desirable answers the weights become large and the step noisy.
    """

    desirable_weight: float | None = knob(
        None, "lam_D; null: balanced from the data", "(0, inf)", "1, or null"
    )
    undesirable_weight: float | None = knob(
        None, "lam_U; null: balanced from the data", "(0, inf)", "1, or null"
    )

    @property
    def needs(self) -> Needs:
        """Judged's, and mismatched answers."""
        base = super().needs
        return replace(
            base,
            rows="mismatched",
            annotations=base.annotations | {"mismatched_kl"},
            metrics=base.metrics | {"kl"},
        )

    def fit(self, groups: Sequence[Group]) -> tuple[Objective, str]:
        """Weights from the counts of both labels, and a line that shows them."""
        good = sum((g.feedback[0].score or 0) > 0 for g in groups)
        bad = len(groups) - good
        weight_good, weight_bad = balanced(good, bad)
        ratio, own_good, own_bad = weight_good / weight_bad, self.desirable_weight, self.undesirable_weight
        if own_bad is not None:
            weight_good, weight_bad = own_bad * ratio if good and bad else 1.0, own_bad
        if own_good is not None:
            weight_good, weight_bad = (
                own_good,
                own_bad if own_bad is not None else own_good / ratio if good and bad else 1.0,
            )
        chosen = replace(self, desirable_weight=weight_good, undesirable_weight=weight_bad)
        given = sum(w is not None for w in (own_good, own_bad))
        how = (
            "balanced",
            "one set by hand, the other balanced against it" if good and bad else "one set by hand",
            "set by hand",
        )[given]
        weights = chosen.desirable_weight, chosen.undesirable_weight
        note = (
            f"{good} desirable, weight {weights[0]:.3g}; {bad} undesirable, weight {weights[1]:.3g} ({how})"
        )
        return chosen, note

    def answer_loss(
        self, reward_B: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Mean], dict[str, Tensor] | None]:
        """One minus the sigmoid of the gain, or of the loss avoided."""
        mismatched_kl = batch.extra["mismatched_kl"]
        z0 = self.beta * mismatched_kl.clamp_min(0)
        good_B = desirable(batch)
        gain_B = torch.where(good_B, reward_B - z0, z0 - reward_B)
        share_B = good_B.to(reward_B.dtype)
        weight_B = share_B * (self.desirable_weight or 1.0) + (1 - share_B) * (self.undesirable_weight or 1.0)
        return weight_B * (1 - gain_B.sigmoid()), {"kl": mean(mismatched_kl.expand(1))}, None
