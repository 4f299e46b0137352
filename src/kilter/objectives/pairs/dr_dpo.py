"""DPO robust to noisy pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Outputs, Unit
from kilter.objectives.knobs import knob
from kilter.objectives.pairs.dpo import DPO
from kilter.objectives.registry import method


@method("dr_dpo")
@dataclass(frozen=True)
class DrDPO(DPO):
    """DPO on the best distribution within a KL ball around the data: pairs of high loss weigh less.

        L = -b log( 1/N sum_i exp(-l_i / b) ),   l_i DPO's loss

    Over the whole optimizer step; b -> infinity is dpo. A pair of high loss is likely mislabelled. Paper: Wu
    et al. 2024, "Towards robust alignment of language models: distributionally robustifying direct preference
    optimization".

    Use: noisy labels whose rate is not known. Watch: rewards/accuracies on held-out pairs. Fails: b too small
    learns only what the policy already prefers.
    """

    b: float = knob(
        1.0, "temperature; the smaller, the less a pair of high loss counts", "(0, inf)", "0.5 to 2"
    )

    unit: ClassVar[Unit] = "batch"

    def total(self, loss_N: Tensor, out: Outputs, batch: Batch) -> Tensor:
        """-b log mean exp(-l / b)."""
        return -self.b * ((-loss_N / self.b).logsumexp(0) - math.log(loss_N.shape[0]))
