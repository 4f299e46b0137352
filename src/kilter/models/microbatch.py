"""Micro-batches: whole groups within a budget of tokens."""

from __future__ import annotations

import torch

from kilter.batch import Batch
from kilter.models.packing import shared_tokens


def split(batch: Batch, budget: int, shared: bool) -> list[Batch]:
    """Micro-batches of whole groups, longest first.

    Args:
        budget: tokens, padding included, that one micro-batch may hold; a single larger group stands alone.
        shared: whether prompts are shared, so that nothing is padded.
    """
    # What a group costs alone: its tokens, or its rows padded to its longest.
    lengths = batch.length_B.tolist()
    if shared:
        cost = [shared_tokens(batch, g, lengths) for g in range(batch.groups())]
    else:
        widths = [0] * batch.groups()
        for row, group in enumerate(batch.group_B.tolist()):
            widths[group] = max(widths[group], int(batch.prompts_N[group].shape[0]) + lengths[row])
        rows = torch.bincount(batch.group_B, minlength=batch.groups()).tolist()
        cost = [w * r for w, r in zip(widths, rows, strict=True)]

    # Longest first, so that groups of like length share a micro-batch and little is padded.
    order = sorted(range(batch.groups()), key=lambda g: -cost[g])
    parts: list[list[int]] = []
    used = budget + 1
    for g in order:
        # Rows are padded to the longest group of the part, which comes first because of the order.
        price = cost[g] if shared or not parts or used > budget else max(cost[g], cost[parts[-1][0]])
        if used + price > budget:
            parts.append([])
            used, price = 0, cost[g]
        parts[-1].append(g)
        used += price
    return [batch.select_groups(p) for p in parts]
