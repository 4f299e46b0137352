"""Self-play preference optimisation with hard labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("sppo_hard")
@dataclass(frozen=True)
class SPPOHard(Pairwise):
    """Regresses each log-ratio to its share of the win probability: 1 if chosen, 0 if rejected.

        L = (D(w) - 1 / (2 beta))^2 + (D(l) + 1 / (2 beta))^2

    D = l - l_ref (nats). Paper: Wu et al. 2024, "Self-play preference optimization", eq. 4.7 with hard
    probabilities.

    Use: rounds of self-play on fresh pairs. Watch: rewards/chosen towards 1/2, rewards/rejected towards -1/2.
    Fails: targets are per answer, so long answers are moved little per token.
    """

    beta: float = knob(
        0.1, "inverse of the target: each log-ratio goes to 1/(2 beta) nats", "(0, inf)", "0.01 to 0.5"
    )

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """(ratio(w) - 1 / (2 beta))^2 + (ratio(l) + 1 / (2 beta))^2."""
        return (w.ratio_N - 0.5 / self.beta).square() + (l.ratio_N + 0.5 / self.beta).square()
