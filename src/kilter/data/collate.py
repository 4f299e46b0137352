"""Encoded groups to a Batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kilter.data.encode import Encoded
from kilter.types import Batch


def collate(groups: Sequence[Encoded]) -> Batch:
    """One row per completion, completions of a group adjacent and in stored order (chosen first)."""
    ids = [c for g in groups for c in g.completion_ids]
    masks = [m for g in groups for m in g.masks]
    width = max(map(len, ids))
    tokens_BT = torch.zeros(len(ids), width, dtype=torch.long)
    mask_BT = torch.zeros(len(ids), width)
    for row, (own, mask) in enumerate(zip(ids, masks, strict=True)):
        tokens_BT[row, : len(own)] = torch.tensor(own)
        mask_BT[row, : len(own)] = torch.tensor(mask, dtype=torch.float32)
    scores = [f.score if f.score is not None else float("nan") for g in groups for f in g.group.feedback]
    margins = [g.group.prompt.metadata.get("margin", 0.0) for g in groups]
    return Batch(
        prompts_N=tuple(torch.tensor(g.prompt_ids) for g in groups),
        tokens_BT=tokens_BT,
        mask_BT=mask_BT,
        length_B=torch.tensor([len(c) for c in ids]),
        group_B=torch.tensor([n for n, g in enumerate(groups) for _ in g.completion_ids]),
        score_B=torch.tensor(scores),
        margin_N=torch.tensor([float(m) for m in margins]),
        n_tokens_total=mask_BT.sum(),
        n_rows_total=torch.tensor(float(len(ids))),
        n_groups_total=torch.tensor(float(len(groups))),
    )
