"""Alignment by optimal transport: aot and aot_unpaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kilter.batch import Unit
from kilter.objectives.knobs import knob
from kilter.objectives.ops import smoothed
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@dataclass(frozen=True)
class _Transport(Pairwise):
    label_smoothing: float = knob(0.0, "probability e that a label is flipped", "[0, 0.5)", "0 to 0.3")

    unit: ClassVar[Unit] = "batch"
    soft: ClassVar[bool] = False


@method("aot")
@dataclass(frozen=True)
class AOT(_Transport):
    """Makes the policy's margins dominate the reference's as a distribution (first order), not pair by pair.

        a = sort(l(w) - l(l)),   b = sort(l_ref(w) - l_ref(l))
        L = mean_i -(1 - e) ls(beta (a_i - b_i)) - e ls(-beta (a_i - b_i))

    Sorted over the whole optimizer step. Paper: Melnyk et al. 2024, "Distributional preference alignment of
    LLMs via optimal transport", algorithm 1.

    Use: labels that hold on average rather than for each pair; large batches. Watch: rewards/margins. Fails:
    small batches estimate the quantiles badly.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """Sorted margins of the policy against sorted margins of the reference."""
        policy_N, reference_N = (w.logps_N - l.logps_N).sort().values, (w.ref_N - l.ref_N).sort().values
        return smoothed(self.beta * (policy_N - reference_N), self.label_smoothing)


@method("aot_unpaired")
@dataclass(frozen=True)
class AOTUnpaired(_Transport):
    """Makes the rewards of chosen answers dominate those of rejected ones as distributions.

        a = sort(D(w)),   b = sort(D(l)),   D = l - l_ref
        L = mean_i -(1 - e) ls(beta (a_i - b_i)) - e ls(-beta (a_i - b_i))

    Sorted over the whole optimizer step, whichever prompt an answer belongs to. Paper: Melnyk et al. 2024,
    algorithm 2.

    Use: good and bad answers that do not come in pairs of one prompt. Watch: rewards/margins. Fails: small
    batches.
    """

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """Sorted rewards of both sides."""
        return smoothed(self.beta * (w.ratio_N.sort().values - l.ratio_N.sort().values), self.label_smoothing)
