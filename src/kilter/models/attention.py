"""Shared-prefix attention: each completion sees its group's prompt and itself, nothing else.

Registered with transformers as the attention implementation "kilter_shared". Without `kilter_segments` among the
keyword arguments it is plain SDPA, so the same model object also generates and runs plain rows.

On CPU every prompt and every completion is its own SDPA call over exactly the keys it may see: no padding and no
masked-out work. On a GPU one compiled flex-attention call does the same through a block mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kilter.models.packing import Segment

NAME = "kilter_shared"


class UnsupportedAttention(Exception):
    """The model's attention has a feature (soft cap, sinks) that the shared-prefix form does not compute."""


def visible(query: int, key: int, window: int | None, device: torch.device) -> Tensor:
    """Bool [query, key]: the last `query` of `key` positions attend causally, at most `window` tokens back."""
    mask = torch.ones(query, key, dtype=torch.bool, device=device).tril(key - query)
    return mask if window is None else mask.triu(key - query - window + 1)


def _segments_cpu(
    q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segment], scale: float | None, dropout: float, window: int | None
) -> Tensor:
    """q, k, v [1, H, L, d] -> [1, H, L, d]."""
    out: list[Tensor] = []
    masks: dict[tuple[int, int], Tensor] = {}

    def attend(start: int, size: int, keys: Tensor, values: Tensor) -> None:
        total = keys.shape[2]
        causal = size == total and (window is None or window >= total)
        mask = None if causal else masks.setdefault((size, total), visible(size, total, window, q.device))
        part = q[:, :, start : start + size]
        out.append(F.scaled_dot_product_attention(part, keys, values, mask, dropout, causal, scale=scale))

    for seg in segments:
        end = seg.start + seg.prompt
        prompt_k, prompt_v = k[:, :, seg.start : end], v[:, :, seg.start : end]
        attend(seg.start, seg.prompt, prompt_k, prompt_v)
        for size in seg.completions:
            own = slice(end, end + size)
            attend(end, size, torch.cat([prompt_k, k[:, :, own]], 2), torch.cat([prompt_v, v[:, :, own]], 2))
            end += size
    return torch.cat(out, 2)


_flex: Callable[..., Any] | None = None
_blocks: dict[tuple[tuple[Segment, ...], int | None, str], Any] = {}


def _segments_gpu(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None) -> Tensor:
    """The same by flex attention; the block mask is built once per layout and reused by every layer."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    global _flex
    if _flex is None:
        _flex = torch.compile(flex_attention, dynamic=True) if q.is_cuda else flex_attention
    key = (segments, window, str(q.device))
    if key not in _blocks:
        _blocks.clear()
        length = q.shape[2]
        group, part, position = (torch.empty(length, dtype=torch.long) for _ in range(3))
        for n, seg in enumerate(segments):
            end = seg.start + seg.prompt
            group[seg.start : end + sum(seg.completions)] = n
            part[seg.start : end] = 0
            position[seg.start : end] = torch.arange(seg.prompt)
            for c, size in enumerate(seg.completions, start=1):
                part[end : end + size] = c
                position[end : end + size] = torch.arange(seg.prompt, seg.prompt + size)
                end += size
        group, part, position = group.to(q.device), part.to(q.device), position.to(q.device)
        reach = length if window is None else window

        def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            own = (part[j] == 0) | (part[i] == part[j])
            back = position[i] - position[j]
            return (group[i] == group[j]) & own & (back >= 0) & (back < reach)

        _blocks[key] = create_block_mask(allowed, None, None, length, length, device=str(q.device))
    out: Tensor = _flex(q, k, v, block_mask=_blocks[key], scale=scale)
    return out


def shared_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [B, H, L, d], key and value [B, H_kv, L, d] -> ([B, L, H, d], None)."""
    segments: tuple[Segment, ...] | None = kwargs.pop("kilter_segments", None)
    if segments is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return plain
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise UnsupportedAttention("attention soft cap or sinks")
    window = kwargs.get("sliding_window")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scale = kwargs.get("scaling")
    if query.is_cuda:
        out = _segments_gpu(query, key, value, segments, scale, window)
    else:
        out = _segments_cpu(query, key, value, segments, scale, kwargs.get("dropout", 0.0), window)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, shared_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
