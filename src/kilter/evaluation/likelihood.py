"""How likely given texts are under a model: token log-probs of answers, nats per token of demonstrations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.data.collate import collate
from kilter.data.encode import Encoder
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.types import Completion, Feedback, Group, Prompt

CHUNK = 64
"""Answers that are encoded and padded together."""


def token_logps(
    scorer: Scorer,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    tokens_per_microbatch: int,
    progress: Callable[[int], None],
) -> list[tuple[float, ...]]:
    """Log-probs of each answer's tokens, in nats at temperature 1.

    progress: hears how many answers are done.
    """
    logps = lambda part: scorer(part).logps_BT
    return _of_tokens(logps, scorer, encoder, prompts, answers, tokens_per_microbatch, progress)


def token_entropy(
    scorer: Scorer,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    tokens_per_microbatch: int,
    progress: Callable[[int], None],
) -> list[float | None]:
    """Mean entropy over each answer's tokens, in nats at temperature 1; None of an answer without tokens."""
    entropy = lambda part: scorer(part, frozenset({"entropy"})).entropy_BT
    rows = _of_tokens(entropy, scorer, encoder, prompts, answers, tokens_per_microbatch, progress)
    return [math.fsum(row) / len(row) if row else None for row in rows]


def _of_tokens(
    compute: Callable[[Batch], Tensor | None],
    scorer: Scorer,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    tokens_per_microbatch: int,
    progress: Callable[[int], None],
) -> list[tuple[float, ...]]:
    """What `compute` gives [B, T] of a batch, for the tokens of each answer."""
    groups = [Group(p, (a,), (Feedback(None),)) for p, a in zip(prompts, answers, strict=True)]
    uncut = replace(encoder, max_length=1 << 30)  # the answers are as long as they are
    out: list[tuple[float, ...]] = [()] * len(groups)
    done = 0
    for first in range(0, len(groups), CHUNK):
        batch = collate(uncut.encode_all(groups[first : first + CHUNK]))
        where = {id(p): first + i for i, p in enumerate(batch.prompts_N)}
        for part in split(batch, tokens_per_microbatch, scorer.shared):
            with torch.no_grad():
                found = compute(part)
            assert found is not None, "the scorer makes what it is asked for"
            values_BT = found.cpu()
            for n, prompt in enumerate(part.prompts_N):
                out[where[id(prompt)]] = tuple(values_BT[n, : int(part.length_B[n])].tolist())
            done += part.groups()
            progress(done)
    return out


def pair_logps(
    scorer: Scorer,
    encoder: Encoder,
    pairs: Sequence[Group],
    tokens_per_microbatch: int,
    progress: Callable[[int], None],
) -> list[tuple[float, float] | None]:
    """Log-probs of the chosen and of the rejected answer, in nats; None where a pair cannot be encoded."""
    # Pairs may share one prompt object, and rows are found again by it.
    full = replace(encoder, max_prompt=None)
    encoded = [full.encode(replace(pair, prompt=replace(pair.prompt))) for pair in pairs]
    kept = [(i, e) for i, e in enumerate(encoded) if e is not None]
    out: list[tuple[float, float] | None] = [None] * len(pairs)

    # A group's rows stay together and in their order: the chosen answer first.
    for first in range(0, len(kept), CHUNK):
        chunk = kept[first : first + CHUNK]
        batch = collate([e for _, e in chunk])
        where = {id(p): i for p, (i, _) in zip(batch.prompts_N, chunk, strict=True)}
        for part in split(batch, tokens_per_microbatch, scorer.shared):
            with torch.no_grad():
                logps_BT = scorer(part).logps_BT.cpu()
            sums: list[list[float]] = [[] for _ in range(part.groups())]
            for row, group in enumerate(part.group_B.tolist()):
                sums[group].append(float((logps_BT[row] * part.mask_BT[row]).sum()))
            for prompt, (chosen, rejected) in zip(part.prompts_N, sums, strict=True):
                out[where[id(prompt)]] = (chosen, rejected)
        progress(min(first + CHUNK, len(kept)))
    return out


def token_nll(
    scorer: Scorer,
    encoder: Encoder,
    demonstrations: Sequence[Group],
    tokens_per_microbatch: int,
    amp: bool,
    progress: Callable[[int], None],
) -> list[float | None]:
    """Negative log-likelihood per token of each demonstration, nats; None where it cannot be encoded."""
    full = replace(encoder, max_prompt=None)
    encoded = [full.encode(g) for g in demonstrations]
    kept = [(i, e) for i, e in enumerate(encoded) if e is not None]
    out: list[float | None] = [None] * len(demonstrations)
    if not kept:
        return out
    batch = collate([e for _, e in kept])
    where = {id(p): i for p, (i, _) in zip(batch.prompts_N, kept, strict=True)}
    for part in split(batch, tokens_per_microbatch, scorer.shared):
        with torch.no_grad():
            logps_BT = scorer(part, amp=amp).logps_BT.cpu()
        nll_B = -(logps_BT * part.mask_BT).sum(-1) / part.mask_BT.sum(-1)
        for row, group in enumerate(part.group_B.tolist()):
            out[where[id(part.prompts_N[group])]] = float(nll_B[row])
        progress(sum(v is not None for v in out))
    return out
