"""DPO robust to a shift of the preferences within a KL ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Batch, Outputs, Unit
from kilter.objectives.knobs import knob
from kilter.objectives.pairs.dpo import DPO
from kilter.objectives.registry import method


@method("kldpo")
@dataclass(frozen=True)
class KLDPO(DPO):
    """DPO on the worst distribution within a KL ball around the data: pairs of high loss weigh more.

        L = 1/N sum_i p_i l_i,   p_i = sg min( exp((l_i - mean l) / tau), cap ),   l_i DPO's loss

    Over the whole optimizer step; tau -> infinity is dpo. Paper: Xu et al. 2025, "Distributionally robust
    direct preference optimization" (arXiv 2502.01930), algorithm 2.

    Use: the mixture of users or topics will differ from the data's. Watch: rewards/margins and its spread
    over topics. Fails: noisy labels are high losses too, and get the same weight; then dr_dpo.
    """

    detaches = True

    tau: float = knob(
        1.0,
        "temperature of the weights; the ball shrinks as it grows",
        "(0, inf)",
        "0.05 to 5, in units of the loss",
    )
    cap: float = knob(10.0, "largest weight of a pair", "[1, inf)", "10")

    unit: ClassVar[Unit] = "batch"

    def total(self, loss_N: Tensor, out: Outputs, batch: Batch) -> Tensor:
        """The mean over pairs, each weighted by exp((loss - mean loss) / tau), at most `cap`."""
        weight_N = ((loss_N - loss_N.mean()) / self.tau).exp().clamp_max(self.cap).detach()
        return super().total(weight_N * loss_N, out, batch)
