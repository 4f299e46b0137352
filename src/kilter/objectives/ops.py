"""Arithmetic that several objectives share: reductions of token log-probs, pair views, metrics as (sum, weight)."""

from __future__ import annotations

import torch
from torch import Tensor

from kilter.types import Batch, Mean


def sequence_logps(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """l(y) = sum_t mask_t log pi(y_t | x, y_<t); nats, [B]."""
    return torch.where(mask_BT > 0, logps_BT, 0.0).mul(mask_BT).sum(-1)


def pairs(values_B: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(chosen_N, rejected_N) of a [B] tensor; rows of a pair are adjacent, the chosen one first."""
    assert values_B.shape[0] == 2 * batch.groups(), "a pairwise objective got groups with K != 2"
    both_N2 = values_B.view(-1, 2)
    return both_N2[:, 0], both_N2[:, 1]


def mean(values: Tensor, weight: Tensor | None = None) -> Mean:
    """Metric from per-item values, each of weight 1 unless `weight` is given."""
    values = values.detach().float()
    if weight is None:
        return Mean(values.sum(), torch.tensor(float(values.numel())))
    return Mean((values * weight).sum(), weight.sum())


def uniform_group_weights(batch: Batch) -> Tensor:
    """1 / (groups in the optimizer step, over all ranks), [N]."""
    return torch.ones(batch.groups()) / batch.n_groups_total
