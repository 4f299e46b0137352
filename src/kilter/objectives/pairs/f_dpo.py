"""DPO under other divergences than the reverse KL."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.objectives.knobs import knob
from kilter.objectives.ops import growth
from kilter.objectives.pairwise import Pairwise, Side
from kilter.objectives.registry import method

DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": lambda d, a: d,
    "forward_kl": lambda d, a: -growth(-d),
    "js": lambda d, a: math.log(2) + logsigmoid(d),
    "alpha": lambda d, a: -growth(-a * d) / a,
    "chi2": lambda d, a: growth(d) + 1 + d,
}
"""f'(u) up to a constant, in d = log u, u = pi / pi_ref."""


@method("f_dpo")
@dataclass(frozen=True)
class FDPO(Pairwise):
    """DPO whose policy stays close to the reference in another f-divergence.

        L = -log sigmoid(beta f'(u_w) - beta f'(u_l)),   u = pi / pi_ref
        f'(u):   forward_kl 1 - 1/u,   js log(2u / (1 + u)),   alpha (1 - u^-a) / a,
                 chi2 u + log u,   reverse_kl log u (dpo)

    The reward is beta f'(u); constants cancel between the sides. Papers: Wang et al. 2023, "Beyond reverse
    KL"; Huang et al. 2024, "Correcting the mythos of KL-regularization" (chi2, chi-PO; its clip of the margin
    at twice the largest reward is not applied).

    Use: forward_kl and js keep more diversity than dpo; chi2 resists overoptimisation where data are sparse.
    Watch: diversity and KL in the evaluation. Fails: forward_kl saturates once u is large; chi2 needs a small
    beta.
    """

    divergence: Literal["forward_kl", "js", "alpha", "chi2", "reverse_kl"] = knob("forward_kl", "which f")
    alpha: float = knob(
        0.5, "a of the alpha-divergence; 1 is forward_kl, 0 is reverse_kl", "(0, 1]", "0.3 to 0.7"
    )

    def reward(self, side: Side) -> Tensor:
        """beta f'(u)."""
        return self.beta * DIVERGENCES[self.divergence](side.ratio_N, self.alpha)
