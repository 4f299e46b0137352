"""From a Batch to the token layout of one forward: which tokens, at which positions, who attends to whom.

Two layouts give the same numbers:

    shared   one row of all groups end to end: prompt, completion 1, ..., completion K, next prompt, ...
             Positions restart after the prompt, each completion sees its prompt and itself. No prompt twice, no padding.
    rows     one padded row per completion, prompt repeated: what any causal language model accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.batch import Batch


@dataclass(frozen=True, slots=True)
class Segment:
    """One group in the shared row: where its prompt starts, its length, its completions' lengths (tokens)."""

    start: int
    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Input of one forward. `predict_S` indexes the flattened positions that predict `targets_S`; `row_S`, `column_S`
    say where those log-probs belong in a [B, T] tensor; `last_B` is the flattened position of each row's last token."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: tuple[Segment, ...] | None
    predict_S: Tensor
    targets_S: Tensor
    row_S: Tensor
    column_S: Tensor
    last_B: Tensor
    shape_BT: tuple[int, int]

    def to(self, device: torch.device) -> Layout:
        """The same layout with its tensors on `device`."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("input_ids", "position_ids", "predict_S", "targets_S", "row_S", "column_S", "last_B")
        }
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return Layout(attention_mask=mask, segments=self.segments, shape_BT=self.shape_BT, **moved)


def shared_tokens(batch: Batch, group: int, lengths: list[int]) -> int:
    """Tokens of one group in the shared layout."""
    rows = (batch.group_B == group).nonzero()[:, 0].tolist()
    return int(batch.prompts_N[group].numel()) + sum(lengths[int(r)] for r in rows)


def pack(batch: Batch, shared: bool) -> Layout:
    """Lays out a (micro-)batch. Prompts must be non-empty: the last prompt token predicts the first completion token."""
    lengths_B = batch.length_B.tolist()
    groups_B = batch.group_B.tolist()
    rows_of: list[list[int]] = [[] for _ in range(batch.groups())]
    for row, group in enumerate(groups_B):
        rows_of[group].append(row)
    row_S, column_S = (batch.mask_BT > 0).nonzero(as_tuple=True)
    targets_S = batch.tokens_BT[row_S, column_S]
    first_B = torch.zeros(
        batch.rows(), dtype=torch.long
    )  # flattened position of each row's first completion token
    before_B = torch.zeros(batch.rows(), dtype=torch.long)  # flattened position of the prompt's last token
    if shared:
        ids: list[Tensor] = []
        positions: list[Tensor] = []
        segments: list[Segment] = []
        at = 0
        for group, rows in enumerate(rows_of):
            prompt = batch.prompts_N[group]
            size = int(prompt.shape[0])
            segments.append(Segment(at, size, tuple(lengths_B[r] for r in rows)))
            ids.append(prompt)
            positions.append(torch.arange(size))
            last = at + size - 1
            at += size
            for r in rows:
                n = lengths_B[r]
                ids.append(batch.tokens_BT[r, :n])
                positions.append(torch.arange(size, size + n))
                first_B[r], before_B[r] = at, last
                at += n
        input_ids, position_ids = torch.cat(ids)[None], torch.cat(positions)[None]
        mask, segs = None, tuple(segments)
    else:
        sizes = [int(batch.prompts_N[g].shape[0]) for g in groups_B]
        width = max(p + n for p, n in zip(sizes, lengths_B, strict=True))
        input_ids = torch.zeros(batch.rows(), width, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for r, (p, n) in enumerate(zip(sizes, lengths_B, strict=True)):
            input_ids[r, :p] = batch.prompts_N[groups_B[r]]
            input_ids[r, p : p + n] = batch.tokens_BT[r, :n]
            mask[r, : p + n] = 1
            first_B[r], before_B[r] = r * width + p, r * width + p - 1
        position_ids = torch.arange(width)[None].expand(batch.rows(), -1)
        segs = None
    predict_S = torch.where(column_S == 0, before_B[row_S], first_B[row_S] + column_S - 1)
    return Layout(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=mask,
        segments=segs,
        predict_S=predict_S,
        targets_S=targets_S,
        row_S=row_S,
        column_S=column_S,
        last_B=first_B + batch.length_B - 1,
        shape_BT=(batch.rows(), int(batch.tokens_BT.shape[1])),
    )
