"""Picks tokens from logits by inverse-CDF sampling: one uniform number a row, one pass over the vocabulary.

The cumulative sum is taken over blocks first, then inside the one block that the draw falls into, so
nothing is sorted and no vocabulary-sized cumulative sum is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kilter.types import SamplingParams

BLOCK = 256
"""Tokens of a block; about the square root of a usual vocabulary."""

CANDIDATES = 1024
"""Most probable tokens that are looked at first for a nucleus."""


def choose(
    logits_RV: Tensor, draws_R: Tensor, params: SamplingParams | Sequence[SamplingParams]
) -> tuple[Tensor, Tensor, Tensor]:
    """Picks one token per row from logits [R, V] by uniform draws [R].

    `params` is for all rows, or one per row. The log-prob is that of the full softmax at the sampling
    temperature (at 1 for greedy), before top-k and top-p, which is what the learner recomputes. The
    entropy is that of the same distribution (0 for greedy).

    Returns:
        tokens [R], log-probs [R] and entropies [R], in nats.
    """
    if isinstance(params, SamplingParams):
        return _choose(logits_RV, draws_R, params)
    # Rows that are sampled alike are drawn together; in training that is all of them.
    kinds: dict[tuple[float, float, int], list[int]] = {}
    for row, p in enumerate(params):
        kinds.setdefault((p.temperature, p.top_p, p.top_k), []).append(row)
    if len(kinds) == 1:
        return _choose(logits_RV, draws_R, params[0])
    picked = torch.empty(len(params), dtype=torch.long, device=logits_RV.device)
    logps, entropy = torch.empty(2, len(params), device=logits_RV.device)
    for rows in kinds.values():
        where = torch.tensor(rows, device=logits_RV.device)
        picked[where], logps[where], entropy[where] = _choose(
            logits_RV[where], draws_R[where], params[rows[0]]
        )
    return picked, logps, entropy


def _choose(logits_RV: Tensor, draws_R: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor, Tensor]:
    logits_RV = logits_RV.float()
    if params.temperature == 0:
        top, picked = logits_RV.max(-1)
        return picked, top - logits_RV.logsumexp(-1), torch.zeros_like(top)
    if params.temperature != 1:
        logits_RV = logits_RV / params.temperature

    # Masses are float32, their sums float64: a cumulative sum in float32 would miss rare tokens at its end.
    top = logits_RV.amax(-1, keepdim=True)
    below_RV = logits_RV - top
    mass_RV = below_RV.exp()
    rows, vocabulary = mass_RV.shape
    whole = vocabulary - vocabulary % BLOCK
    blocks = mass_RV[:, :whole].view(rows, -1, BLOCK).sum(-1, dtype=torch.float64)
    if whole < vocabulary:
        blocks = torch.cat([blocks, mass_RV[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)], 1)
    total = blocks.sum(-1)
    if params.top_k or params.top_p < 1:
        picked = _filtered(mass_RV, total, draws_R, params)
    else:
        picked = _in_blocks(mass_RV, blocks, draws_R)

    # H = log Z - E[log mass]. In bfloat16 the product would be off by a tenth of a nat.
    log_total = total.log().float()
    logps = below_RV.gather(1, picked[:, None])[:, 0] - log_total
    with torch.autocast(logits_RV.device.type, enabled=False):
        mean = torch.linalg.vecdot(mass_RV, below_RV)
        # 0 times -inf: a token of probability 0 counts 0.
        if mean.isnan().any():
            mean = torch.linalg.vecdot(mass_RV, below_RV.clamp_min(torch.finfo(torch.float32).min))
        mean = mean / total.float()
    return picked, logps, (log_total - mean).clamp_min(0.0)


def _in_blocks(mass_RV: Tensor, blocks: Tensor, draws_R: Tensor) -> Tensor:
    """The token where the cumulative mass passes draw x total: first its block, then its place there."""
    vocabulary = mass_RV.shape[1]
    edges = blocks.cumsum(-1)
    target = draws_R.double() * edges[:, -1]
    block = torch.searchsorted(edges, target[:, None], right=True).clamp_max(edges.shape[1] - 1)
    before = edges.gather(1, block)[:, 0] - blocks.gather(1, block)[:, 0]
    index = block * BLOCK + torch.arange(BLOCK, device=mass_RV.device)
    inside = torch.where(index < vocabulary, mass_RV.gather(1, index.clamp_max(vocabulary - 1)), 0.0).double()
    place = torch.searchsorted(inside.cumsum(-1), (target - before)[:, None], right=True)
    # A draw at the very end may round past the block's last token with any mass.
    number = torch.arange(1, BLOCK + 1, device=mass_RV.device)
    last = (inside > 0).long().mul(number).amax(-1, keepdim=True) - 1
    return (block * BLOCK + torch.minimum(place, last.clamp_min(0)))[:, 0]


def _filtered(mass_RV: Tensor, total: Tensor, draws_R: Tensor, params: SamplingParams) -> Tensor:
    """top-k, then the smallest set of tokens with mass >= top_p."""
    # Without top-k the candidates grow until they hold the nucleus: a full sort would cost far more.
    vocabulary = mass_RV.shape[1]
    width = min(params.top_k or CANDIDATES, vocabulary)
    while True:
        top, index = mass_RV.topk(width, dim=-1)
        p = top.double()
        scale = p.sum(-1, keepdim=True) if params.top_k else total[:, None]
        if params.top_k or width == vocabulary or bool((p.sum(-1) >= params.top_p * total).all()):
            break
        width = min(8 * width, vocabulary)

    # The token that crosses top_p is still in.
    p = p / scale
    before = p.cumsum(-1) - p
    p = torch.where(before < params.top_p, p, 0.0)
    cdf = p.cumsum(-1)
    place = torch.searchsorted(cdf, draws_R.double()[:, None] * cdf[:, -1:], right=True)
    place = torch.minimum(place, (p > 0).sum(-1, keepdim=True) - 1)
    return index.gather(1, place)[:, 0]
