"""DPO robust to a shift of the inputs within a Wasserstein ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kilter.batch import Batch, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.ops import pairs
from kilter.objectives.pairs.dpo import DPO
from kilter.objectives.registry import method


@method("wdpo")
@dataclass(frozen=True)
class WDPO(DPO):
    """DPO on the worst distribution within a Wasserstein ball around the data.

        L = 1/N sum_i [ l_i + rho ( |dl_i / dE(x, w)|^2 + |dl_i / dE(x, l)|^2 ) ]

    l_i is DPO's loss, E the input embeddings of prompt and answer. The penalty is on the loss's slope there;
    its gradient is a true second derivative. Paper: Xu et al. 2025, "Distributionally robust direct
    preference optimization" (arXiv 2502.01930), algorithm 1.

    Use: prompts at release will be worded differently from the data's. Watch: loss in training against
    eval_loss, which leaves the penalty out. Fails: several times the time of dpo and half as much memory
    again (the graph of the first backward is kept), and prompts are not shared between the answers.
    """

    rho: float = knob(
        1e-3,
        "weight of the penalty, the radius of the ball",
        "[0, inf)",
        "1e-3 on SmolLM2-135M, where 0.1 is ten times dpo's loss and more; "
        "the slope is per embedding, so the scale is the model's",
    )

    computes: ClassVar[frozenset[str]] = frozenset({"logps", "embeddings"})

    def total(self, loss_N: Tensor, out: Outputs, batch: Batch) -> Tensor:
        """The loss, plus the penalty on its slope in the embeddings."""
        assert out.embeddings_BLD is not None
        # An evaluation reports the loss alone.
        if not loss_N.requires_grad:
            return super().total(loss_N, out, batch)

        # The embeddings of different rows are different inputs, so one backward gives every pair's slope.
        (slope_BLD,) = torch.autograd.grad(loss_N.sum(), out.embeddings_BLD, create_graph=True)
        square_w_N, square_l_N = pairs(slope_BLD.square().sum((1, 2)).to(loss_N.device), batch)
        return super().total(loss_N + self.rho * (square_w_N + square_l_N), out, batch)
