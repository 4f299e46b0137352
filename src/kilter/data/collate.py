"""Encoded groups to a Batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.types import Encoded


def collate(groups: Sequence[Encoded]) -> Batch:
    """One row per completion, completions of a group adjacent and in stored order (chosen first).

    No groups give a batch without rows.
    """
    ids = [c for g in groups for c in g.completion_ids]
    masks = [m for g in groups for m in g.masks]
    width = max(map(len, ids), default=0)
    tokens_BT = torch.zeros(len(ids), width, dtype=torch.long)
    mask_BT = torch.zeros(len(ids), width)
    for row, (own, mask) in enumerate(zip(ids, masks, strict=True)):
        tokens_BT[row, : len(own)] = torch.tensor(own, dtype=torch.long)
        mask_BT[row, : len(own)] = torch.tensor(mask, dtype=torch.float32)
    scores = [f.score if f.score is not None else float("nan") for g in groups for f in g.group.feedback]
    completions = [c for g in groups for c in g.group.completions]
    token_score = sampling = None
    if any(f.steps for g in groups for f in g.group.feedback):
        token_score = _padded([f.steps for g in groups for f in g.group.feedback], width)
    if all(c.sampling_logps for c in completions):
        sampling = _padded([c.sampling_logps or () for c in completions], width)
    greedy = [g.group.prompt.metadata.get("greedy_score") for g in groups]
    known = [float(score) for score in greedy if score is not None]
    soft = [f.over(place) for g in groups for f in g.group.feedback for place in range(len(f.against))]
    margins = [g.group.prompt.metadata.get("margin", 0.0) for g in groups]
    return Batch(
        prompts_N=tuple(torch.tensor(g.prompt_ids) for g in groups),
        tokens_BT=tokens_BT,
        mask_BT=mask_BT,
        length_B=torch.tensor([len(c) for c in ids], dtype=torch.long),
        group_B=torch.tensor([n for n, g in enumerate(groups) for _ in g.completion_ids], dtype=torch.long),
        score_B=torch.tensor(scores),
        margin_N=torch.tensor([float(m) for m in margins]),
        n_tokens_total=mask_BT.sum(),
        n_rows_total=torch.tensor(float(len(ids))),
        n_groups_total=torch.tensor(float(len(groups))),
        token_score_BT=token_score,
        sampling_logps_BT=sampling,
        truncated_B=torch.tensor([float(c.finish_reason == "length") for c in completions]),
        extra=({"greedy_score_N": torch.tensor(known)} if len(known) == len(groups) else {})
        | ({"p_B": _odds(groups)} if any(p is not None for p in soft) else {}),
    ).counted()


def _odds(groups: Sequence[Encoded]) -> Tensor:
    """[B, K]: the probability that an answer is better than the one at each place; NaN if unknown."""
    out = torch.full(
        (sum(len(g.completion_ids) for g in groups), max(len(g.completion_ids) for g in groups)), torch.nan
    )
    everyone = (f for g in groups for f in g.group.feedback)
    for row, feedback in enumerate(everyone):
        for place in range(min(len(feedback.against), out.shape[1])):
            p = feedback.over(place)
            out[row, place] = torch.nan if p is None else p
    return out


def _padded(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    out = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        out[i, : min(len(row), width)] = torch.tensor(row, dtype=torch.float32)[:width]
    return out
