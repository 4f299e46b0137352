"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.batch import Batch, Mean, Needs, Unit
from kilter.objectives.ops import mean
from kilter.objectives.registry import method
from kilter.objectives.unpaired.judged import Judged, desirable


@method("bco")
@dataclass(frozen=True)
class BCO(Judged):
    """Logistic regression on the implicit reward, shifted by its running mean.

        L = -1/B sum_i log sigmoid( +-(r_i - delta) ),   r = beta (l - l_ref)
        delta = mean of all r so far, detached

    + for desirable and - for undesirable answers; delta counts every answer seen up to and including this
    step, and is part of a checkpoint. Paper: Jung et al. 2024, "Binary classifier optimization for large
    language model alignment"; its delta is the mean of the two kinds' means, which is the same where both are
    equally many.

    Use: thumbs, as an alternative to kto with fewer settings. Watch: delta drifting down says that all
    answers lose likelihood. Fails: when good and bad answers come from different kinds of prompts.
    """

    detaches = True

    unit: ClassVar[Unit] = "batch"

    @property
    def needs(self) -> Needs:
        """The needs of the base; it reports its shift too."""
        base = super().needs
        return replace(base, metrics=base.metrics | {"delta"})

    def answer_loss(
        self, reward_B: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Mean], dict[str, Tensor] | None]:
        """Logistic loss around the shift; the state is (mean, count)."""
        zero = torch.zeros((), dtype=torch.float64)
        old, seen = batch.state.get("bco_mean", zero), batch.state.get("bco_count", zero)
        count = seen + reward_B.shape[0]
        delta = (old * seen + reward_B.detach().double().sum()) / count
        sign_B = torch.where(desirable(batch), 1.0, -1.0).to(reward_B.dtype)
        loss_B = -logsigmoid(sign_B * (reward_B - delta.to(reward_B.dtype)))
        return loss_B, {"delta": mean(delta.expand(1))}, {"bco_mean": delta, "bco_count": count}
