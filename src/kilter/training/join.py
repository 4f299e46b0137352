"""Outputs and batches of several micro-batches, or of several ranks, put together as one.

A rank may have fewer rows than others, or none. Whatever it does in common with them follows from what all
have, never from its own rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from kilter.batch import Batch, Mean, Outputs
from kilter.data.collate import collate
from kilter.types import Completion, Encoded, Feedback, Group, Prompt


def present(out: Outputs) -> dict[str, Tensor]:
    """What a forward computed, by field."""
    values = {name: getattr(out, name) for name in out.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def join_outputs(outs: Sequence[Outputs]) -> Outputs:
    """Outputs of all micro-batches as one, rows in their order, without their graphs."""
    names = present(outs[0])
    return Outputs(**{name: stack([getattr(o, name).detach().cpu() for o in outs]) for name in names})


def join_leaves(outs: Sequence[Outputs]) -> tuple[Outputs, dict[str, Tensor]]:
    """Outputs of all ranks as one; its tensors are leaves that require grad."""
    names = present(outs[0])
    # Leaves of their own: the gradient stops at what the forward gave.
    leaves = {name: stack([getattr(o, name) for o in outs]).requires_grad_() for name in names}
    return Outputs(**leaves), leaves


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches of all ranks as one; counts over the optimizer step are the same on each."""
    if len(batches) == 1:
        return batches[0]

    def join(name: str, values: Sequence[Any]) -> Any:
        # Groups of the second rank are numbered on from those of the first.
        if name == "group_B":
            offsets = [sum(b.groups() for b in batches[:i]) for i in range(len(batches))]
            return torch.cat([v + offset for v, offset in zip(values, offsets, strict=True)])
        if name.endswith(("_BT", "_B", "_N")) and isinstance(values[0], Tensor):
            return stack(values)
        return tuple(p for v in values for p in v) if name == "prompts_N" else values[0]

    joined = {f.name: join(f.name, [getattr(b, f.name) for b in batches]) for f in fields(Batch)}
    joined["extra"] = {name: join(name, [b.extra[name] for b in batches]) for name in batches[0].extra}
    return Batch(**joined)


def level(batch: Batch, gather: Callable[[Any], list[Any]]) -> Batch:
    """The batch with the tensors that one process would have for the rows of all ranks.

    Some tensors exist only if any answer, or every answer, of the step brings them along.

    Args:
        gather: one value of every rank, in order.
    """
    mine = (
        batch.token_score_BT is not None,
        batch.sampling_logps_BT is not None,
        "greedy_score_N" in batch.extra,
        "p_B" in batch.extra,
    )
    stepwise, sampled, greedy, soft = zip(*gather(mine), strict=True)
    # One answer with scored steps is enough: the others' tokens score zero.
    if any(stepwise) and batch.token_score_BT is None:
        batch = batch.with_(token_score_BT=torch.zeros_like(batch.mask_BT))
    # One answer without is enough: what only some have cannot be used.
    if not all(sampled):
        batch = batch.with_(sampling_logps_BT=None)
    if not all(greedy):
        batch = batch.with_(extra={k: v for k, v in batch.extra.items() if k != "greedy_score_N"})
    # One soft label is enough: all other labels are certain.
    if any(soft) and "p_B" not in batch.extra:
        widest = int(torch.bincount(batch.group_B).max()) if batch.rows() else 1
        batch = batch.with_extra(p_B=torch.full((batch.rows(), widest), torch.nan))
    return batch


def stand_in() -> Batch:
    """One prompt token and one answer token, which a rank without work of its own forwards.

    The collectives of a forward need every rank. Nothing that comes out of it is used.
    """
    group = Group(Prompt(), (Completion(""),), (Feedback(0.0),))
    return collate([Encoded(group, (0,), ((0,),), ((1,),))])


def nothing(out: Outputs) -> Tensor:
    """Zero, with a graph to everything that a forward gives: back-propagated, it moves nothing."""
    values = [v for v in present(out).values() if v.requires_grad]
    return torch.stack([v.nan_to_num().sum().cpu() * 0.0 for v in values]).sum()


def in_order_of(parts: Sequence[Batch], batch: Batch) -> Batch:
    """The batch with its groups in the order of its micro-batches."""
    key = {id(p): g for g, p in enumerate(batch.prompts_N)}
    return batch.select_groups([key[id(p)] for part in parts for p in part.prompts_N])


def stack(values: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors under each other, padded to the widest."""
    if values[0].ndim < 2:
        return torch.cat(list(values))
    # Every micro-batch was cut to its own longest row.
    width = max(v.shape[1] for v in values)
    return torch.cat([torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in values])


def add(sums: dict[str, Mean], found: dict[str, Mean]) -> None:
    """Adds metrics to what was summed so far: (sum, weight) each, never an average of averages."""
    for name, mean in found.items():
        old = sums.get(name)
        sums[name] = mean if old is None else Mean(old.total + mean.total, old.weight + mean.weight)
