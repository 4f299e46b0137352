"""How far a sampling engine's log-probs are from the learner's, for the same tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from kilter.batch import Batch, Metrics
from kilter.training.parallel.engine import Engine
from kilter.training.stale import moved, sums_by_age


def mismatch(
    batch: Batch, own_BT: Tensor, engine: Engine, opponent: bool = False, updates: int | None = None
) -> Metrics:
    """KL(sampler || learner) per token (k3) and the largest gap, over all ranks' answers.

    Args:
        batch: with the sampler's log-probs.
        own_BT: the learner's, nats.
        engine: of the learner.
        opponent: whether only the first answer of a group is the policy's.
        updates: that the learner has made, where tokens may be of older weights.
    """
    assert batch.sampling_logps_BT is not None
    mask = batch.mask_BT * (batch.first_B().float()[:, None] if opponent else 1.0)
    gap = (own_BT - batch.sampling_logps_BT) * mask
    sums = engine.sum(
        torch.stack([((gap.exp() - gap - 1) * mask).sum(), gap.abs().sum(), mask.sum()]).float()
    )
    largest = max(engine.gather(float(gap.abs().max()) if gap.numel() else 0.0))
    count = max(float(sums[2]), 1.0)
    found = {
        "sampling/mismatch_kl": float(sums[0]) / count,
        "sampling/sampling_logp_difference/mean": float(sums[1]) / count,
        "sampling/sampling_logp_difference/max": largest,
    }
    if updates is None:
        return found
    # Tokens of older weights are told apart by their age.
    return found | moved(engine.sum(sums_by_age(gap, mask, updates - batch.extra["version_BT"])))
