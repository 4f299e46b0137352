"""Losses per token that several methods share: the score function and the clipped surrogate."""

from __future__ import annotations

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Outputs
from kilter.objectives.ops import mean


def score_function(out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
    """-A log pi, [B, T]: the policy gradient without a ratio."""
    assert batch.advantage_BT is not None
    assert out.logps_BT is not None
    return -batch.advantage_BT * out.logps_BT, {}


def clipped_surrogate(
    ratio_BT: Tensor, batch: Batch, low: float, high: float, dual: float | None = None
) -> tuple[Tensor, dict[str, Mean]]:
    """`clipped` on the batch's advantages, [B, T], and the shares of tokens on which it is in force."""
    assert batch.advantage_BT is not None
    metrics = clip_metrics(ratio_BT.detach(), batch.advantage_BT, batch.mask_BT, low, high)
    return clipped(ratio_BT, batch.advantage_BT, low, high, dual), metrics


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), and its metrics.

    `dual` > 1 bounds it by -dual A where A < 0 (Ye et al. 2020).
    """
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return loss if dual is None else torch.where(advantage < 0, torch.min(loss, -dual * advantage), loss)


CLIPPED = frozenset({"clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"})
"""Names of `clip_metrics`."""


def clip_metrics(ratio: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Mean]:
    """Shares of tokens (or sequences) on which the clip is in force."""
    below = ((ratio < 1 - low) & (advantage < 0)).float()
    above = ((ratio > 1 + high) & (advantage > 0)).float()
    return {
        "clip_ratio/low_mean": mean(below, mask),
        "clip_ratio/high_mean": mean(above, mask),
        "clip_ratio/region_mean": mean(below + above, mask),
    }
