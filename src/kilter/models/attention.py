"""Shared-prefix attention: each completion sees its group's prompt and itself, nothing else.

Registered with transformers as the attention implementation "kilter_shared". With `kilter_cache` the sampler's cache keeps
keys and values and answers for them. With neither it is plain SDPA, so the same model object also generates and runs plain rows.

On CPU every prompt and every completion is computed over exactly the keys it may see: no padding and no
masked-out work. On a GPU one compiled flex-attention call does the same through a block mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kilter.models.packing import Segment

NAME = "kilter_shared"


class KeyValueStore(Protocol):
    """What stands in for attention while a sampler decodes: it keeps keys and values and answers for them."""

    @property
    def filling(self) -> bool:
        """Whether the forward under way is a prefill."""
        ...

    def store_prompt(self, layer: int, k: Tensor, v: Tensor) -> tuple[Segment, ...]:
        """Keeps keys and values [1, G, L, d] of the prompts being filled; returns the segments to attend over."""
        ...

    def decode(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """q [1, H, r, d], k and v [1, G, r, d] of the newest token of each live row -> [1, H, r, d]."""
        ...


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

    S = scale q k^T + mask, P = softmax(S) in float32, out = P v, for a run of completions at once: their common prompt's keys
    in one product, their own in a batch of them. The backward recomputes P, so nothing of size length^2 is kept. P v, dk and
    dv are products in v's type, which may be narrower than that of q and k: under autocast a rotation leaves these in float32.
    S, dP and dq, whose terms nearly cancel, are products in float32. Written with batched matrix products because, for segments of tens to hundreds of tokens, PyTorch's CPU flash kernel takes 2 to
    4 times as long in the backward (docs/LOG.md).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
        window: int | None,
    ) -> Tensor:
        out = torch.empty_like(q, dtype=v.dtype)
        for run in _runs(segments, q.shape[1]):
            p, _, _ = _probabilities(q, k, run, scale, window)
            _put(out, run, _times(p.to(v.dtype), v, run))
        ctx.save_for_backward(q, k, v)
        ctx.rest = segments, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v = ctx.saved_tensors
        segments, scale, window = ctx.rest
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for run in _runs(segments, q.shape[1]):
            p, queries, keys = _probabilities(q, k, run, scale, window)
            g = _take(grad, run, k.shape[1])
            if run.padding is not None:  # padding repeats a row, and must not count it twice
                g.view(k.shape[1], len(run.lengths), -1, run.width, g.shape[-1]).masked_fill_(
                    run.padding[:, None, :, None], 0
                )
            dp = _against(g.to(p.dtype), _take(v, run, k.shape[1]).to(p.dtype), v, run)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            _put(dq, run, _times(ds, k, run, keys))
            _add(dk, run, ds.to(v.dtype), queries.to(v.dtype))
            _add(dv, run, p.to(v.dtype), g)
        return dq.mul_(scale), dk.mul_(scale), dv, None, None, None


RUN_ELEMENTS = 1 << 22
"""Scores computed at once: 16 MiB in float32, unless a single completion needs more."""


@dataclass(frozen=True, eq=False)
class _Run:
    """Neighbouring completions of one prompt, (start, length), which they see besides themselves; a prompt is a run of its own.

    Completions of unequal length are padded to the longest: `gather` picks their rows, `real` the rows that are no padding,
    `padding` [n, T] says which are.
    """

    at: int
    lengths: tuple[int, ...]
    prompt: tuple[int, int] | None
    gather: Tensor | None
    real: Tensor | None
    padding: Tensor | None

    @property
    def width(self) -> int:
        """T, tokens of the longest."""
        return max(self.lengths)

    @property
    def before(self) -> int:
        """P, tokens of the prompt."""
        return 0 if self.prompt is None else self.prompt[1]


@lru_cache(maxsize=16)
def _runs(segments: tuple[Segment, ...], heads: int) -> tuple[_Run, ...]:
    """Every prompt, followed by its completions in runs of bounded size with little padding."""
    runs = []
    for seg in segments:
        runs.append(_run(seg.start, (seg.prompt,), None))
        at, prompt = seg.start + seg.prompt, (seg.start, seg.prompt)
        together: tuple[int, ...] = ()
        for size in seg.completions:
            wide = max(*together, size) if together else size
            rows = wide * (len(together) + 1)
            if together and (
                2 * rows > 3 * (sum(together) + size) or heads * rows * (seg.prompt + wide) > RUN_ELEMENTS
            ):
                runs.append(_run(at, together, prompt))
                at, together = at + sum(together), ()
            together += (size,)
        if together:
            runs.append(_run(at, together, prompt))
    return tuple(runs)


def _run(at: int, lengths: tuple[int, ...], prompt: tuple[int, int] | None) -> _Run:
    if len(set(lengths)) == 1:
        return _Run(at, lengths, prompt, None, None, None)
    sizes = torch.tensor(lengths)
    padding = torch.arange(max(lengths))[None] >= sizes[:, None]
    gather = (torch.arange(max(lengths))[None] + (sizes.cumsum(0) - sizes)[:, None]).masked_fill(padding, 0)
    return _Run(at, lengths, prompt, gather.view(-1), (~padding).view(-1).nonzero()[:, 0], padding)


def _take(x: Tensor, run: _Run, kv_heads: int) -> Tensor:
    """[L, H, d] to [G, n * H/G * T, d]: the heads that share keys and the completions of the run become one matrix."""
    rows = x[run.at : run.at + sum(run.lengths)]
    rows = rows if run.gather is None else rows.index_select(0, run.gather)
    return (
        rows.view(len(run.lengths), run.width, kv_heads, -1, x.shape[2])
        .permute(2, 0, 3, 1, 4)
        .reshape(kv_heads, -1, x.shape[2])
        .contiguous()
    )


def _put(x: Tensor, run: _Run, value: Tensor) -> None:
    """The inverse of `_take`, into x."""
    groups, _, d = value.shape
    rows = value.view(groups, len(run.lengths), -1, run.width, d).permute(1, 3, 0, 2, 4)
    target = x[run.at : run.at + sum(run.lengths)]
    if run.real is None:
        target.view(rows.shape).copy_(rows)
    else:
        target.copy_(rows.reshape(-1, *x.shape[1:]).index_select(0, run.real))


def _prefix(x: Tensor, run: _Run) -> Tensor:
    """The prompt's rows of k or v, [G, P, d]."""
    assert run.prompt is not None
    return x[run.prompt[0] : run.prompt[0] + run.prompt[1]].transpose(0, 1)


def _own(value: Tensor, run: _Run) -> Tensor:
    """[G, n * m, c] as one matrix per completion, [G * n, m, c]."""
    return value.view(value.shape[0] * len(run.lengths), -1, value.shape[2])


def _against(queries: Tensor, own: Tensor, x: Tensor, run: _Run) -> Tensor:
    """queries x^T over the keys that each may see: [G, n * h * T, P + T] in the queries' type; `own` is x in the run's layout."""
    result = queries.new_empty(*queries.shape[:2], run.before + run.width)
    if run.before:
        torch.bmm(queries, _prefix(x, run).to(queries.dtype).transpose(1, 2), out=result[..., : run.before])
    torch.bmm(_own(queries, run), _own(own, run).transpose(1, 2), out=_own(result, run)[..., run.before :])
    return result


def _times(weights: Tensor, x: Tensor, run: _Run, own: Tensor | None = None) -> Tensor:
    """weights x, [G, n * h * T, d] in the weights' type: the product with the prompt's rows and each completion's own."""
    own = _take(x, run, x.shape[1]) if own is None else own
    result = torch.bmm(_own(weights[..., run.before :], run), _own(own.to(weights.dtype), run)).view(
        *weights.shape[:2], -1
    )
    return (
        torch.baddbmm(result, weights[..., : run.before], _prefix(x, run).to(weights.dtype))
        if run.before
        else result
    )


def _add(target: Tensor, run: _Run, weights: Tensor, rows: Tensor) -> None:
    """target gets weights^T rows: the run's own keys, which no other run touches, are set; what its prompt's keys have is added to."""
    if run.before:
        _prefix(target, run).add_(torch.bmm(weights[..., : run.before].transpose(1, 2), rows))
    own = torch.bmm(_own(weights[..., run.before :], run).transpose(1, 2), _own(rows, run))
    _put(target, run, own.view(target.shape[1], -1, rows.shape[2]))


def _probabilities(
    q: Tensor, k: Tensor, run: _Run, scale: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(P [G, n * h * T, P + T] in float32 or wider, queries, own keys) of one run."""
    queries, keys = _take(q, run, k.shape[1]), _take(k, run, k.shape[1])
    wide = torch.promote_types(q.dtype, torch.float32)
    s = _against(
        queries.to(wide) * scale, keys.to(wide), k, run
    )  # a rounded score would be off by its size times 2^-9
    grid = s.view(-1, run.width, run.before + run.width)
    if window is not None and window < run.before + run.width:
        grid += _causal(run.before + run.width, window, wide)[
            run.before : run.before + run.width, : run.before + run.width
        ]
    else:
        grid[..., run.before :] += _causal(run.width, None, wide)[: run.width, : run.width]
    return torch.softmax(s, -1), queries, keys


def _segments_cpu(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None
) -> Tensor:
    """q [1, H, L, d], k and v [1, G, L, d] -> [1, H, L, d]."""
    with torch.autocast("cpu", enabled=False):
        rows = [x[0].transpose(0, 1).contiguous() for x in (q, k.to(q.dtype), v)]
        out: Tensor = _SegmentAttention.apply(  # type: ignore[no-untyped-call]
            *rows, segments, q.shape[-1] ** -0.5 if scale is None else scale, window
        )
    return out.transpose(0, 1)[None]


_flex: Callable[..., Any] | None = None
_blocks: dict[tuple[tuple[Segment, ...], int | None, str], Any] = {}


def _segments_gpu(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None
) -> Tensor:
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
    cache: KeyValueStore | None = kwargs.pop("kilter_cache", None)
    if segments is None and cache is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
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
            out = cache.decode(
                layer, query, key, value, query.shape[-1] ** -0.5 if scale is None else scale, window
            )
            return out.transpose(1, 2), None
        segments = cache.store_prompt(layer, key, value)
    assert segments is not None
    compute = _segments_gpu if query.is_cuda else _segments_cpu
    out = compute(query, key, value, segments, scale, window)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, shared_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
