"""Soft preference learning: entropy and cross-entropy weighted apart."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("spl")
@dataclass(frozen=True)
class SPL(Pairwise):
    """DPO with the two halves of its KL term weighted apart, which keeps diversity that the term destroys.

        r(y) = beta l_theta(y) - cross l_ref(y),   L = -log sigmoid(r(w) - r(l))

    The KL to the reference is cross-entropy minus entropy; beta weighs the entropy, cross the cross-entropy,
    and beta = cross is dpo. Paper: Slocum et al. 2025, "Diverse preference learning for capabilities and
    alignment".

    Use: creative tasks and best-of-n, where dpo's answers all look alike. Watch: distinct n-grams in the
    evaluation. Fails: beta far above cross flattens the policy until it loses coherence.
    """

    beta: float = knob(0.1, "weight of the entropy", "(0, inf)", "0.05 to 0.5")
    cross: float = knob(
        0.05, "weight of the cross-entropy to the reference", "(0, inf)", "a half to all of beta"
    )

    def reward(self, side: Side) -> Tensor:
        """beta l - cross l_ref."""
        return self.beta * side.logps_N - self.cross * side.ref_N
