"""The distance to the reference, and the KL coefficient: fixed, adaptive, or raised only above a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.seams import Hook, Step
from kilter.training.config import KLControl
from kilter.training.parallel.engine import Engine


@dataclass
class KLController:
    """Moves the coefficient of step t + 1 by the KL (nats per completion) of step t's rollouts.

    adaptive (Ziegler et al. 2019): c *= 1 + clip(KL / target - 1, -0.2, 0.2) n / horizon, bounded by
    [c0 / 10, max_coef].
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
        # A single step never moves the coefficient by more than a fifth.
        error = max(-0.2, min(0.2, kl / self.spec.target - 1))
        if self.spec.mode == "budget" and -0.2 < error < 0:
            return
        # A budget never falls below where it began: within it the method is left as it is.
        low = self.initial if self.spec.mode == "budget" else self.initial / 10
        self.value = max(
            low,
            min(
                self.spec.max_coef, self.coefficient * (1 + error * min(1.0, completions / self.spec.horizon))
            ),
        )


class KLDistance(Hook):
    """Records how far the policy is from the reference, and moves the coefficient by it.

    Args:
        engine: sums over the processes.
        opposed: the second answer of a pair is an opponent's, and says nothing of the policy.
        controller: None for methods that have no coefficient.
    """

    name = "kl_control"

    def __init__(self, engine: Engine, opposed: bool, controller: KLController | None) -> None:
        self.engine, self.opposed, self.controller = engine, opposed, controller
        self._sampled: Tensor | None = None

    def before_update(self, batch: Batch) -> Batch:
        """Keeps what the sampler reported, which the loss may not need, and gives the present coefficient."""
        # Annotation drops it where the loss has no use for it.
        self._sampled = batch.sampling_logps_BT
        if self.controller is None or self.controller.spec.mode == "fixed":
            return batch
        return batch.with_extra(kl_coef=torch.tensor(self.controller.coefficient))

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """kl/sequence and kl/coefficient, where both log-probs are known."""
        found = distance(batch, self._sampled, self.opposed, self.engine)
        if found is None:
            return
        record["kl/sequence"] = found[0]
        if self.controller is not None:
            self.controller.update(*found)
            record["kl/coefficient"] = self.controller.coefficient

    def state(self) -> dict[str, Any]:
        """The coefficient where it has moved."""
        return {} if self.controller is None else {"value": self.controller.value}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        if self.controller is not None:
            self.controller.value = state["value"]


def distance(batch: Batch, sampled: Tensor | None, opposed: bool, engine: Engine) -> tuple[float, int] | None:
    """The mean of log pi_old / ref over the policy's own answers, over all processes.

    Args:
        batch: annotated; its old log-probs are preferred.
        sampled: [B, T] log-probs that the sampler reported, nats.
        opposed: only the first answer of each pair is the policy's.

    Returns:
        The mean in nats per completion and the number of completions, None without both log-probs.
    """
    own_BT = batch.old_logps_BT if batch.old_logps_BT is not None else sampled
    if batch.ref_logps_BT is None or own_BT is None:
        return None
    # Answers that are masked as a whole do not train and do not count.
    mine_B = batch.first_B().float() if opposed else torch.ones(batch.rows())
    mine_B = mine_B * (batch.mask_BT.sum(-1) > 0)
    # Rows may have been cut since the sampler reported them.
    width = batch.mask_BT.shape[1]
    gap = ((own_BT[:, :width] - batch.ref_logps_BT) * batch.mask_BT * mine_B[:, None]).sum()
    total, count = engine.sum(torch.stack([gap.float(), mine_B.sum()]))
    return float(total / count.clamp_min(1)), int(count)
