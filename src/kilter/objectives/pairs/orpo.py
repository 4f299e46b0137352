"""Odds ratio preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.ops import log1mexp
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method


@method("orpo")
@dataclass(frozen=True)
class ORPO(Pairwise):
    """Imitation of the chosen answer with an odds-ratio penalty on the rejected one: one stage for both.

        L = NLL(w) + beta * (-log sigmoid(odds(w) - odds(l))),   odds = lbar - log(1 - exp(lbar))

    lbar is the MEAN log-prob (nats per token); NLL per token of the chosen answers. No reference.
    Paper: Hong et al. 2024, "ORPO: monolithic preference optimization without reference model".

    Use: a base model and pairs, no SFT stage. Watch: nll, of the chosen. Fails: the penalty is weak; on a
    tuned model it does little beyond SFT.
    """

    beta: float = knob(0.1, "weight of the odds-ratio term (lambda of the paper)", "(0, inf)", "0.1 to 0.5")

    uses_reference: ClassVar[bool] = False
    rate: ClassVar[float] = 8e-6

    @property
    def per_token(self) -> bool:
        """The reward is beta lbar."""
        return True

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """-beta ls(log odds ratio)."""
        odds_w_N, odds_l_N = (s.mean_N - log1mexp(s.mean_N) for s in (w, l))
        return -self.beta * logsigmoid(odds_w_N - odds_l_N)

    def imitation(self) -> float:
        """Weight of the imitation term."""
        return 1.0
