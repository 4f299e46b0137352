"""Shared-prefix attention: each completion sees its group's prompt and itself, nothing else.

Registered with transformers as the attention implementation "kilter_shared". With `kilter_cache` the sampler's cache keeps
keys and values and answers for them. With neither it is plain SDPA, so the same model object also generates and runs plain rows.

On CPU every prompt and every completion is computed over exactly the keys it may see: no padding and no
masked-out work. On a GPU one compiled flex-attention call does the same through a block mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kilter.models.packing import Segment

if TYPE_CHECKING:
    from kilter.sampling.cache import DecodeCache

NAME = "kilter_shared"


class UnsupportedAttention(Exception):  # noqa: N818
    """The model's attention has a feature (soft cap, sinks) that the shared-prefix form does not compute."""


def _causal(size: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[size, size] additive mask: 0 where key <= query and within the window, else -inf."""
    rounded = max(64, 1 << (size - 1).bit_length())
    return _causal_table(rounded, window, dtype)


@lru_cache(maxsize=8)
def _causal_table(size: int, window: int | None, dtype: torch.dtype) -> Tensor:
    seen = torch.ones(size, size, dtype=torch.bool).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    return torch.zeros(size, size, dtype=dtype).masked_fill_(~seen, float("-inf"))


class _SegmentAttention(torch.autograd.Function):
    """Attention over exactly the keys that each segment may see; q [L, H, d], k and v [L, G, d], H a multiple of G.

    Per segment: S = scale q k^T + mask in float32, P = softmax(S), out = P v. The backward recomputes P, so nothing of
    size length^2 is kept. Written with batched matrix products because, for segments of tens to hundreds of tokens,
    PyTorch's CPU flash kernel takes 2 to 4 times as long in the backward (docs/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float, window: int | None) -> Tensor:
        out = torch.empty_like(q)
        for at, size, prompt in _pieces(segments):
            p, _, _, values = _probabilities(q, k, v, at, size, prompt, scale, window)
            _put(out, at, size, torch.bmm(p.to(v.dtype), values))
        ctx.save_for_backward(q, k, v)
        ctx.rest = segments, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v = ctx.saved_tensors
        segments, scale, window = ctx.rest
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for at, size, prompt in _pieces(segments):
            p, queries, keys, values = _probabilities(q, k, v, at, size, prompt, scale, window)
            g = _take(grad, at, size, k.shape[1])
            dp = torch.bmm(g, values.transpose(1, 2)).to(p.dtype)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype).mul_(scale).to(q.dtype)
            _put(dq, at, size, torch.bmm(ds, keys))
            for target, own in ((dk, torch.bmm(ds.transpose(1, 2), queries)), (dv, torch.bmm(p.to(v.dtype).transpose(1, 2), g))):
                own = own.transpose(0, 1)
                if prompt is not None:
                    start, length = prompt
                    target[start : start + length] += own[:length]
                    target[at : at + size] += own[length:]
                else:
                    target[at : at + size] += own
        return dq, dk, dv, None, None, None


def _pieces(segments: tuple[Segment, ...]) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """(start, length, prompt seen besides itself) of every prompt and completion."""
    for seg in segments:
        yield seg.start, seg.prompt, None
        at = seg.start + seg.prompt
        for size in seg.completions:
            yield at, size, (seg.start, seg.prompt)
            at += size


def _take(x: Tensor, at: int, size: int, kv_heads: int) -> Tensor:
    """[L, H, d] rows at.. to [G, H/G * size, d]: the heads that share keys become one matrix."""
    part = x[at : at + size]
    return part.view(size, kv_heads, -1, x.shape[2]).permute(1, 2, 0, 3).reshape(kv_heads, -1, x.shape[2])


def _put(x: Tensor, at: int, size: int, value: Tensor) -> None:
    """The inverse of `_take`, into x."""
    groups, _, width = value.shape
    x[at : at + size].view(size, groups, -1, width).copy_(value.view(groups, -1, size, width).permute(2, 0, 1, 3))


def _probabilities(
    q: Tensor, k: Tensor, v: Tensor, at: int, size: int, prompt: tuple[int, int] | None, scale: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(P [G, H/G * size, keys], queries, keys, values) of one piece; P in float32 or wider."""
    queries = _take(q, at, size, k.shape[1])
    own_k, own_v = k[at : at + size], v[at : at + size]
    before = 0
    if prompt is not None:
        start, before = prompt
        own_k, own_v = torch.cat([k[start : start + before], own_k]), torch.cat([v[start : start + before], own_v])
    keys, values = own_k.transpose(0, 1), own_v.transpose(0, 1)
    wide = torch.promote_types(q.dtype, torch.float32)
    s = torch.bmm(queries.to(wide), keys.to(wide).transpose(1, 2)).mul_(scale)
    grid = s.view(k.shape[1], -1, size, before + size)
    if window is not None and window < before + size:
        grid += _causal(before + size, window, wide)[before : before + size, : before + size]
    else:
        grid[..., before:] += _causal(size, None, wide)[:size, :size]
    return torch.softmax(s, -1), queries, keys, values


def _segments_cpu(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None) -> Tensor:
    """q [1, H, L, d], k and v [1, G, L, d] -> [1, H, L, d]."""
    with torch.autocast("cpu", enabled=False):
        rows = [x[0].transpose(0, 1).contiguous() for x in (q, k.to(q.dtype), v.to(q.dtype))]
        out: Tensor = _SegmentAttention.apply(  # type: ignore[no-untyped-call]
            *rows, segments, q.shape[-1] ** -0.5 if scale is None else scale, window
        )
    return out.transpose(0, 1)[None]


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
    out: Tensor = _flex(q, k, v, block_mask=_blocks[key], scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out


def shared_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [B, H, L, d], key and value [B, H_kv, L, d] -> ([B, L, H, d], None)."""
    segments: tuple[Segment, ...] | None = kwargs.pop("kilter_segments", None)
    cache: DecodeCache | None = kwargs.pop("kilter_cache", None)
    if segments is None and cache is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return plain
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise UnsupportedAttention("attention soft cap or sinks")
    window = kwargs.get("sliding_window")
    if kwargs.get("dropout"):
        raise UnsupportedAttention("attention dropout")
    scale = kwargs.get("scaling")
    if cache is not None:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if not cache.filling:
            out = cache.decode(layer, query, key, value, query.shape[-1] ** -0.5 if scale is None else scale, window)
            return out.transpose(1, 2), None
        segments = cache.store_prompt(layer, key, value)
    assert segments is not None
    compute = _segments_gpu if query.is_cuda else _segments_cpu
    out = compute(query, key, value, segments, scale, window)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, shared_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
