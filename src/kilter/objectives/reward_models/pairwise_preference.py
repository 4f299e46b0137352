"""A preference model that reads both answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kilter.batch import Needs
from kilter.objectives.registry import method
from kilter.objectives.reward_models.bradley_terry import BradleyTerry


@method("pairwise_preference")
@dataclass(frozen=True)
class PairwisePreference(BradleyTerry):
    """p(w > l) from a head that reads both answers, symmetrised over their order.

        s(a, b) = head(x, a, b) on the last token,   p(w > l) = sigmoid(s(w, l) - s(l, w))
        L = -log sigmoid(s(w, l) - s(l, w)) + centring (s(w, l) + s(l, w))^2

    A row holds the prompt and both answers, one after the other; a pair is its two orders, so a mere taste
    for the first place cancels. Paper: Jiang et al. 2023, "LLM-Blender" (PairRM); Munos et al. 2024
    (preference models for Nash learning).

    Use: a judge for pairs, cycles in the preferences. Watch: eval_rewards/accuracies. Fails: costs a forward
    per ordered pair, so n answers cost n^2.
    """

    @property
    def needs(self) -> Needs:
        """Bradley-Terry's, with both answers in each row."""
        return replace(super().needs, rows="joint")
