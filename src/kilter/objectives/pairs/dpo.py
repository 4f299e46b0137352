"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.ops import smoothed
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("dpo")
@dataclass(frozen=True)
class DPO(Pairwise):
    """Fits the policy to preferences through its implicit reward beta log pi/pi_ref.

        z = beta [ (l(w) - l_ref(w)) - (l(l) - l_ref(l)) ]
        L = -(1 - e) log sigmoid(z) - e log sigmoid(-z)

    l is the summed log-prob (nats) of chosen w and rejected l; e > 0 is conservative DPO. Mean over pairs.
    Paper: Rafailov et al. 2023, "Direct preference optimization", eq. 7; Mitchell 2023 (label smoothing).

    Use: the first method to try on preference pairs. Watch: logps/chosen falling with logps/rejected;
    rewards/margins without bound. Fails: by length (chosen longer than rejected) and when the answers are far
    from the policy's own.
    """

    label_smoothing: float = knob(0.0, "probability e that a label is flipped", "[0, 0.5)", "0 to 0.3")
    length_normalized: bool = knob(
        False, "log-ratios per token instead of per answer; beta then is 10 to 50 times as large"
    )

    @property
    def per_token(self) -> bool:
        """True with `length_normalized`."""
        return self.length_normalized

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-(1 - e) ls(z) - e ls(-z)."""
        return smoothed(self.margin(w, l), self.label_smoothing)
