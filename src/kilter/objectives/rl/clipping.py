"""The clipped surrogate and its metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from kilter.objectives.ops import mean
from kilter.types import Mean


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A); `dual` > 1 bounds it by -dual A where A < 0 (Ye et al. 2020)."""
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return loss if dual is None else torch.where(advantage < 0, torch.min(loss, -dual * advantage), loss)


def clip_metrics(ratio: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Mean]:
    """Shares of tokens (or sequences) on which the clip is in force."""
    below = ((ratio < 1 - low) & (advantage < 0)).float()
    above = ((ratio > 1 + high) & (advantage > 0)).float()
    return {
        "clip_ratio/low_mean": mean(below, mask),
        "clip_ratio/high_mean": mean(above, mask),
        "clip_ratio/region_mean": mean(below + above, mask),
    }
