"""Dynamic fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.imitation.sft import SFT
from kilter.objectives.ops import masked, mean
from kilter.objectives.registry import method


@method("dft")
@dataclass(frozen=True)
class DFT(SFT):
    """SFT with each token weighted by its own probability, which cancels the 1/p in its gradient.

        L = - sum_it w_it sg(p_it) log p_it,   w as in sft (token or sequence; field normalize)

    Paper: Wu et al. 2025, "On the generalization of SFT: a reinforcement learning perspective with reward
    rectification".

    Use: demonstrations of reasoning by a model that already half knows the task. Watch: probability, the mean
    of p, whose slope the loss follows; nll may rise on hard tokens. Fails: tokens that the model finds
    impossible are never learned, so new facts and new formats are not picked up.
    """

    detaches = True

    @property
    def needs(self) -> Needs:
        """The needs of sft; it reports one metric more."""
        base = super().needs
        return replace(base, metrics=base.metrics | {"probability"})

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum; the metrics are sft's."""
        assert out.logps_BT is not None
        assert batch.weight_BT is not None
        logps_BT = masked(out.logps_BT, batch.mask_BT)
        value = -(batch.weight_BT * logps_BT.detach().exp() * logps_BT).sum()
        return Loss(
            value, super().loss(out, batch).metrics | {"probability": mean(logps_BT.exp(), batch.mask_BT)}
        )
