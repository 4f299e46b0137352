"""The KL coefficient: fixed, adaptive, or raised only above a budget."""

from __future__ import annotations

from dataclasses import dataclass

from kilter.training.config import KLControl


@dataclass
class KLController:
    """coefficient(t+1) from the KL (nats per completion) that step t's rollouts had.

    adaptive (Ziegler et al. 2019): c *= 1 + clip(KL / target - 1, -0.2, 0.2) n / horizon, bounded by [c0 / 10, max_coef].
    budget: the same where KL is above the target; below 0.8 of it, c returns towards c0.
    """

    spec: KLControl
    initial: float
    value: float | None = None

    @property
    def coefficient(self) -> float:
        """The present coefficient."""
        return self.initial if self.value is None else self.value

    def update(self, kl: float, completions: int) -> None:
        """`completions`: how many the KL was averaged over."""
        if self.spec.mode == "fixed" or self.initial == 0:
            return
        error = max(-0.2, min(0.2, kl / self.spec.target - 1))
        if self.spec.mode == "budget" and -0.2 < error < 0:
            return
        low = self.initial if self.spec.mode == "budget" else self.initial / 10
        self.value = max(
            low,
            min(
                self.spec.max_coef, self.coefficient * (1 + error * min(1.0, completions / self.spec.horizon))
            ),
        )
