"""Anchored preference optimisation on thumbs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.batch import Batch, Mean
from kilter.objectives.registry import method
from kilter.objectives.unpaired.judged import Judged, desirable


@method("apo_zero_unpaired")
@dataclass(frozen=True)
class APOZeroUnpaired(Judged):
    """KTO without a reference point: desirable answers are raised, undesirable ones lowered.

        L = mean of  1 - sigmoid(r)  over desirable,  sigmoid(r)  over undesirable,   r = beta (l - l_ref)

    Paper: D'Oosterlinck et al. 2024, "Anchored preference optimization", eq. 7, its unpaired form.

    Use: thumbs, where kto's mismatched forward is too dear. Watch: rewards/chosen positive, rewards/rejected
    negative. Fails: with very unequal counts, for nothing is balanced.
    """

    def answer_loss(
        self, reward_B: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Mean], dict[str, Tensor] | None]:
        """1 - s(r), or s(r)."""
        return torch.where(desirable(batch), 1 - reward_B.sigmoid(), reward_B.sigmoid()), {}, None
