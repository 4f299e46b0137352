"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("ipo")
@dataclass(frozen=True)
class IPO(Pairwise):
    """Regresses the log-ratio gap to a finite target, so that sure preferences do not drive it to infinity.

        L = (D(w) - D(l) - 1 / (2 beta))^2

    D = l - l_ref (nats); with length_normalized both are divided by their number of tokens, the form that its
    authors used for language models. Paper: Azar et al. 2023, "A general theoretical paradigm to understand
    learning from human preferences", eq. 17.

    Use: near-deterministic labels, where dpo overfits. Watch: rewards/margins approach 1/2. Fails:
    beta means something else than in dpo; without normalisation long answers dominate.
    """

    length_normalized: bool = knob(True, "log-ratios per token instead of per answer")

    @property
    def per_token(self) -> bool:
        """True with `length_normalized`."""
        return self.length_normalized

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """Squared distance of the gap to 1 / (2 beta)."""
        return ((self.margin(w, l) - 0.5) / self.beta).square()
