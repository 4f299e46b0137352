"""AdamW and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kilter.batch import Needs
from kilter.training.config import TrainSpec

ADAPTER_RATE = 10.0
"""Adapters begin at zero and are few: a method's own rate is taken this many times for them."""


def make_optimizer(module: nn.Module, spec: TrainSpec, learning_rate: float) -> torch.optim.AdamW:
    """Fused AdamW with betas (0.9, 0.999). Weight decay is for matrices, not for norms, biases and scalars.

    Parameters of a critic form groups of their own, with role "critic".
    """
    groups: list[dict[str, Any]] = []
    # Two rates need groups of their own.
    for role in ("policy", "critic"):
        trained = [
            p
            for n, p in module.named_parameters()
            if p.requires_grad and ("critic." in n) == (role == "critic")
        ]
        groups += [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay, "role": role},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "role": role},
        ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)


def schedule_factor(spec: TrainSpec, total_steps: int) -> Callable[[int], float]:
    """Multiplier of the peak learning rate at this 0-based step: linear warm-up, then decay to its minimum.

    After the warm-up it is that of transformers: linear, cosine, and cosine_with_min_lr with min_lr_rate.
    """
    # The first step already moves, and the peak is reached after the last step of the warm-up.
    warmup = warmup_steps(spec, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if spec.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        falling = 1.0 - progress if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return spec.min_lr_rate + (1.0 - spec.min_lr_rate) * falling if spec.min_lr_rate else falling

    return factor


def warmup_steps(spec: TrainSpec, total_steps: int) -> int:
    """Optimizer steps of the warm-up."""
    return math.ceil(spec.warmup_ratio * total_steps) if spec.warmup_steps is None else spec.warmup_steps


class Rates:
    """Learning rates of policy and critic, by the 0-based number of the optimizer step.

    Args:
        spec: of the stage.
        needs: of the method, which has a usual rate.
        total_steps: of the run.
        critic: whether the run has one, which learns alone during its warm-up.
    """

    def __init__(self, spec: TrainSpec, needs: Needs, total_steps: int, critic: bool) -> None:
        # Adapters begin at zero and take larger steps than weights that know something.
        usual = needs.learning_rate * (ADAPTER_RATE if spec.adapter is not None else 1)
        self.peak = spec.learning_rate or usual
        self._critic, self._factor = spec.critic.learning_rate, schedule_factor(spec, total_steps)
        self._critic_only = spec.critic.warmup_steps if critic else 0

    def policy(self, step: int) -> float:
        """As the schedule has it, also where the critic learns alone."""
        return self.peak * self._factor(step)

    def critic(self, step: int) -> float:
        """Follows the same schedule, from a peak of its own."""
        return self._critic * self._factor(step)

    def put(self, optimizer: Any, step: int) -> None:
        """Gives every group of an optimizer its rate."""
        policy = 0.0 if step < self._critic_only else self.policy(step)
        for group in optimizer.param_groups:
            group["lr"] = self.critic(step) if group.get("role") == "critic" else policy
