"""Plackett-Luce: the likelihood of a whole ranking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from kilter.batch import Batch, Needs, Outputs
from kilter.objectives.knobs import knob
from kilter.objectives.lists.listwise import Listwise, plackett_luce_nll, soft_plackett_luce_nll
from kilter.objectives.registry import method


@method("plackett_luce")
@dataclass(frozen=True)
class PlackettLuce(Listwise):
    """The likelihood of the whole ranking when answers are drawn best first in proportion to exp(score).

        L = - sum_k log [ exp(s_k) / sum_{i >= k} exp(s_i) ]
        s = beta (l - l_ref) in nats, or a reward model's score

    Soft labels give place k to each answer of the rest by its probability to be their best, which the odds of
    all pairs say (Price et al. 1995). For two answers it is dpo, or bradley_terry. Papers: Plackett 1975;
    Rafailov et al. 2023, appendix A.3; Ouyang et al. 2022.

    Use: rankings of three or more answers. Watch: rewards/accuracies over all pairs of a list. Fails: noise
    at the lower end of a ranking counts as much as at its top.
    """

    model: Literal["policy", "reward"] = knob(
        "policy", "what is trained: the policy, or a reward model with a scalar head"
    )

    soft: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Log-probs of policy and reference, or scores."""
        base = super().needs
        if self.model == "policy":
            return base
        return replace(
            base,
            models=frozenset({"reward"}),
            outputs=frozenset({"scores"}),
            annotations=frozenset(),
            learning_rate=1e-5,
        )

    def scores(self, out: Outputs, batch: Batch) -> Tensor:
        """The head's scores, or implicit rewards."""
        if self.model == "policy":
            return super().scores(out, batch)
        assert out.scores_B is not None
        return out.scores_B

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NKK: Tensor) -> Tensor:
        """Each place goes to any answer of the rest, by its probability to be their best."""
        return soft_plackett_luce_nll(score_NK, valid_NK, p_NKK)

    def list_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor) -> Tensor:
        """-log P(ranking)."""
        return plackett_luce_nll(score_NK, valid_NK)
