"""From a Batch to the token layout of one forward: which tokens, at which positions, who attends to whom.

Two layouts give the same numbers:

    shared   one row of all groups end to end: prompt, completion 1, ..., completion K, next prompt, ...
             Positions restart after the prompt, and each completion sees its prompt and itself.
             No prompt twice, no padding. With a root, what all prompts begin with stands in front, once.
    rows     one padded row per completion, prompt repeated: what any causal language model accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.batch import Batch


@dataclass(frozen=True, slots=True)
class Segment:
    """One group in the shared row: where its prompt starts, its length, its completions' lengths (tokens).

    root: tokens in front of the row that the prompt goes on from, and that all of the group sees.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]
    root: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Input of one forward, and where its results belong."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: tuple[Segment, ...] | None
    """Who attends to whom in the shared layout; None for plain rows."""
    predict_S: Tensor
    """Flattened positions that predict `targets_S`."""
    targets_S: Tensor
    row_S: Tensor
    """With `column_S`: where the log-probs of `targets_S` belong in a [B, T] tensor."""
    column_S: Tensor
    last_B: Tensor
    """Flattened position of each row's last token."""
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


def root_tokens(prompts: Sequence[Tensor]) -> int:
    """Tokens that all prompts begin with, where there are several; each keeps at least one of its own."""
    if len(prompts) < 2:
        return 0
    size = min(p.numel() for p in prompts) - 1
    first = prompts[0]
    for p in prompts[1:]:
        differ = (p[:size] != first[:size]).nonzero()
        size = int(differ[0]) if len(differ) else size
    return size


def pack(batch: Batch, shared: bool, rooted: bool = False) -> Layout:
    """Lays out a batch or micro-batch.

    Args:
        batch: groups with non-empty prompts: the last prompt token predicts the first completion token.
        shared: whether each prompt stands once, before all its completions, or once per row.
        rooted: whether what all prompts of a shared layout begin with stands once, before all of them.
    """
    placed = _pack_shared(batch, rooted) if shared else _pack_rows(batch)

    # A completion's first token is predicted by the prompt's last, which need not stand directly before it.
    row_S, column_S = (batch.mask_BT > 0).nonzero(as_tuple=True)
    predict_S = torch.where(column_S == 0, placed.before_B[row_S], placed.first_B[row_S] + column_S - 1)
    return Layout(
        input_ids=placed.input_ids,
        position_ids=placed.position_ids,
        attention_mask=placed.attention_mask,
        segments=placed.segments,
        predict_S=predict_S,
        targets_S=batch.tokens_BT[row_S, column_S],
        row_S=row_S,
        column_S=column_S,
        last_B=placed.first_B + batch.length_B - 1,
        shape_BT=(batch.rows(), int(batch.tokens_BT.shape[1])),
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """Tokens as they are laid out, and the flattened positions that surround each row's start."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: tuple[Segment, ...] | None
    first_B: Tensor
    """Position of each row's first completion token."""
    before_B: Tensor
    """Position of its prompt's last token."""


def _pack_shared(batch: Batch, rooted: bool) -> _Placed:
    """All groups end to end in one row."""
    lengths_B = batch.length_B.tolist()
    rows_of: list[list[int]] = [[] for _ in range(batch.groups())]
    for row, group in enumerate(batch.group_B.tolist()):
        rows_of[group].append(row)

    ids: list[Tensor] = []
    positions: list[Tensor] = []
    segments: list[Segment] = []
    first_B = torch.zeros(batch.rows(), dtype=torch.long)
    before_B = torch.zeros(batch.rows(), dtype=torch.long)
    root = root_tokens(batch.prompts_N) if rooted else 0
    if root:
        segments.append(Segment(0, root, ()))
        ids.append(batch.prompts_N[0][:root])
        positions.append(torch.arange(root))
    at = root
    for group, rows in enumerate(rows_of):
        prompt = batch.prompts_N[group]
        size = int(prompt.shape[0])
        segments.append(Segment(at, size - root, tuple(lengths_B[r] for r in rows), root))
        ids.append(prompt[root:])
        positions.append(torch.arange(root, size))
        at += size - root
        last = at - 1
        # Every completion goes on where the prompt ends, as if it stood there alone.
        for r in rows:
            n = lengths_B[r]
            ids.append(batch.tokens_BT[r, :n])
            positions.append(torch.arange(size, size + n))
            first_B[r], before_B[r] = at, last
            at += n
    return _Placed(torch.cat(ids)[None], torch.cat(positions)[None], None, tuple(segments), first_B, before_B)


def _pack_rows(batch: Batch) -> _Placed:
    """One padded row per completion."""
    lengths_B, groups_B = batch.length_B.tolist(), batch.group_B.tolist()
    sizes = [int(batch.prompts_N[g].shape[0]) for g in groups_B]
    width = max(p + n for p, n in zip(sizes, lengths_B, strict=True))
    input_ids = torch.zeros(batch.rows(), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    first_B = torch.zeros(batch.rows(), dtype=torch.long)
    before_B = torch.zeros(batch.rows(), dtype=torch.long)
    for r, (p, n) in enumerate(zip(sizes, lengths_B, strict=True)):
        input_ids[r, :p] = batch.prompts_N[groups_B[r]]
        input_ids[r, p : p + n] = batch.tokens_BT[r, :n]
        mask[r, : p + n] = 1
        first_B[r], before_B[r] = r * width + p, r * width + p - 1
    # Padding is on the right, so that positions count from 0 in every row.
    position_ids = torch.arange(width)[None].expand(batch.rows(), -1)
    return _Placed(input_ids, position_ids, mask, None, first_B, before_B)
