"""Shared-prefix attention: each completion sees its group's prompt and itself, and the row's root if any.

Registered with transformers as the attention implementation "kilter_shared". `kilter_segments` says who sees
whom. With `kilter_cache` the sampler's cache keeps keys and values and answers for them. With neither it is
plain SDPA, so that the same model object also generates and runs plain rows.

On a CPU every prompt and every completion is computed over exactly the keys it may see, without padding and
without masked-out work. On a GPU one compiled flex-attention call does the same through a block mask.
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
        """Keeps keys and values [1, G, L, d] of the prompts being filled; returns their segments."""
        ...

    def decode(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """q [1, H, r, d], k and v [1, G, r, d] of the newest token of each live row -> [1, H, r, d]."""
        ...


class UnsupportedAttention(Exception):  # noqa: N818
    """The model's attention has a feature (soft cap, sinks) that the shared-prefix form does not compute."""


def _causal(size: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[size, size] additive mask: 0 where key <= query and within the window, else -inf."""
    # Callers cut the mask to size. A power of two, so that few tables serve all lengths.
    rounded = max(64, 1 << (size - 1).bit_length())
    return _causal_table(rounded, window, dtype)


@lru_cache(maxsize=8)
def _causal_table(size: int, window: int | None, dtype: torch.dtype) -> Tensor:
    seen = torch.ones(size, size, dtype=torch.bool).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    return torch.zeros(size, size, dtype=dtype).masked_fill_(~seen, float("-inf"))


class _SegmentAttention(torch.autograd.Function):
    """Attention over exactly the keys that each segment may see.

    q [L, H, d], k [L, G, d], v [L, G, e], where G divides H.

    S = scale q k^T + mask, P = softmax(S) in float32, out = P v, for a run of completions at once. The keys
    of their common prompt stand in one product, their own keys in a batch of products. The backward
    recomputes P, so nothing of size length^2 is kept.

    P v, dk and dv are products in v's type. It may be narrower than that of q and k, because a rotation
    leaves these in float32 under autocast. S, dP and dq, whose terms nearly cancel, are products in float32.

    It is written with batched matrix products. For segments of tens to hundreds of tokens, PyTorch's CPU
    flash kernel takes 2 to 4 times as long in the backward (docs/LOG.md).
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
        # Latent attention has values of another width than its keys.
        out = v.new_empty(*q.shape[:2], v.shape[2])
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

            # Padding repeats a row, which must not count twice.
            if run.padding is not None:
                by_row = g.view(k.shape[1], len(run.lengths), -1, run.width, g.shape[-1])
                by_row.masked_fill_(run.padding[:, None, :, None], 0)

            # dP = dO v^T, dS = P (dP - sum P dP), dq = dS k, dk = dS^T q, dv = P^T dO.
            dp = _against(g.to(p.dtype), _take(v, run, k.shape[1]).to(p.dtype), v, run)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            _put(dq, run, _times(ds, k, run, keys))
            _add(dk, run, ds.to(v.dtype), queries.to(v.dtype))
            _add(dv, run, p.to(v.dtype), g)

        # S carries the scale, so the gradients of both its factors do. It costs least on the finished sums.
        return dq.mul_(scale), dk.mul_(scale), dv, None, None, None


RUN_ELEMENTS = 1 << 22
"""Scores computed at once: 16 MiB in float32, unless a single completion needs more."""


@dataclass(frozen=True, eq=False)
class _Run:
    """Neighbouring completions of one prompt, computed at once. A prompt or a root is a run of its own.

    Completions of unequal length are padded to the longest; the last three fields are None if they are of one
    length.
    """

    at: int
    """Position of the first token."""
    lengths: tuple[int, ...]
    """Tokens of each completion."""
    seen: tuple[tuple[int, int], ...]
    """Start and length of what all of them see besides themselves: root and prompt, in order."""
    gather: Tensor | None
    """[n * T] rows to read, padding included."""
    real: Tensor | None
    """Which of these rows are not padding."""
    padding: Tensor | None
    """[n, T], true for padding."""

    @property
    def width(self) -> int:
        """T, the tokens of the longest completion."""
        return max(self.lengths)

    @property
    def before(self) -> int:
        """P, the tokens that are seen besides; 0 without any."""
        return sum(size for _, size in self.seen)


@lru_cache(maxsize=16)
def _runs(segments: tuple[Segment, ...], heads: int) -> tuple[_Run, ...]:
    """Every prompt, followed by its completions in runs of bounded size with little padding."""
    runs = []
    for seg in segments:
        root = ((0, seg.root),) if seg.root else ()
        runs.append(_run(seg.start, (seg.prompt,), root))
        at, seen = seg.start + seg.prompt, (*root, (seg.start, seg.prompt))
        together: tuple[int, ...] = ()
        for size in seg.completions:
            # A run ends where padding would be a third of it, or where its scores would grow too large.
            wide = max(*together, size) if together else size
            rows = wide * (len(together) + 1)
            padded = 2 * rows > 3 * (sum(together) + size)
            if together and (padded or heads * rows * (seg.root + seg.prompt + wide) > RUN_ELEMENTS):
                runs.append(_run(at, together, seen))
                at, together = at + sum(together), ()
            together += (size,)
        if together:
            runs.append(_run(at, together, seen))
    return tuple(runs)


def _run(at: int, lengths: tuple[int, ...], seen: tuple[tuple[int, int], ...]) -> _Run:
    if len(set(lengths)) == 1:
        return _Run(at, lengths, seen, None, None, None)
    sizes = torch.tensor(lengths)
    padding = torch.arange(max(lengths))[None] >= sizes[:, None]
    gather = (torch.arange(max(lengths))[None] + (sizes.cumsum(0) - sizes)[:, None]).masked_fill(padding, 0)
    return _Run(at, lengths, seen, gather.view(-1), (~padding).view(-1).nonzero()[:, 0], padding)


def _take(x: Tensor, run: _Run, kv_heads: int) -> Tensor:
    """[L, H, d] to [G, n * H/G * T, d]: heads that share keys and the run's completions become one matrix."""
    rows = x[run.at : run.at + sum(run.lengths)]
    rows = rows if run.gather is None else rows.index_select(0, run.gather)
    # [n, T, G, H/G, d], then the key-value heads in front, as the batch of the products.
    apart = rows.view(len(run.lengths), run.width, kv_heads, -1, x.shape[2]).permute(2, 0, 3, 1, 4)
    return apart.reshape(kv_heads, -1, x.shape[2]).contiguous()


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
    """Root's and prompt's rows of k or v, [G, P, d]."""
    parts = [x[at : at + size] for at, size in run.seen]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)


def _own(value: Tensor, run: _Run) -> Tensor:
    """[G, n * m, c] as one matrix per completion, [G * n, m, c]."""
    return value.view(value.shape[0] * len(run.lengths), -1, value.shape[2])


def _against(queries: Tensor, own: Tensor, x: Tensor, run: _Run) -> Tensor:
    """queries x^T over the keys that each may see: [G, n * h * T, P + T] in the queries' type.

    Args:
        queries: [G, n * h * T, d].
        own: x in the run's layout.
        x: keys or values of all segments, [L, G, d].
    """
    # Both products write into their part of one matrix, so that no copy joins them.
    result = queries.new_empty(*queries.shape[:2], run.before + run.width)
    if run.before:
        torch.bmm(queries, _prefix(x, run).to(queries.dtype).transpose(1, 2), out=result[..., : run.before])
    torch.bmm(_own(queries, run), _own(own, run).transpose(1, 2), out=_own(result, run)[..., run.before :])
    return result


def _times(weights: Tensor, x: Tensor, run: _Run, own: Tensor | None = None) -> Tensor:
    """weights x, [G, n * h * T, d] in the weights' type: over the prompt's rows and each completion's own."""
    own = _take(x, run, x.shape[1]) if own is None else own
    among = torch.bmm(_own(weights[..., run.before :], run), _own(own.to(weights.dtype), run))
    result = among.view(*weights.shape[:2], -1)
    if not run.before:
        return result
    return torch.baddbmm(result, weights[..., : run.before], _prefix(x, run).to(weights.dtype))


def _add(target: Tensor, run: _Run, weights: Tensor, rows: Tensor) -> None:
    """Gives target, the gradient of keys or values, the share weights^T rows of one run."""
    # A prompt's keys are read by all its runs, which add up. The prompt's own run came first and has set
    # them. So it is with a root.
    if run.before:
        among = torch.bmm(weights[..., : run.before].transpose(1, 2), rows).transpose(0, 1)
        shares = torch.split(among, [size for _, size in run.seen])
        for (at, size), share in zip(run.seen, shares, strict=True):
            target[at : at + size] += share

    # The run's own keys are read by no other run.
    own = torch.bmm(_own(weights[..., run.before :], run).transpose(1, 2), _own(rows, run))
    _put(target, run, own.view(target.shape[1], -1, rows.shape[2]))


def _probabilities(
    q: Tensor, k: Tensor, run: _Run, scale: float, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(P [G, n * h * T, P + T] in float32 or wider, queries, own keys) of one run."""
    queries, keys = _take(q, run, k.shape[1]), _take(k, run, k.shape[1])
    # In bfloat16 a score would be off by its size times 2^-9.
    wide = torch.promote_types(q.dtype, torch.float32)
    s = _against(queries.to(wide) * scale, keys.to(wide), k, run)

    # Every token sees the whole prompt, unless a window of sliding attention ends within the run.
    reach = run.before + run.width
    grid = s.view(-1, run.width, reach)
    if window is not None and window < reach:
        grid += _causal(reach, window, wide)[run.before : reach, :reach]
    else:
        grid[..., run.before :] += _causal(run.width, None, wide)[: run.width, : run.width]
    return torch.softmax(s, -1), queries, keys


def _segments_cpu(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None
) -> Tensor:
    """q [1, H, L, d], k and v [1, G, L, d] -> [1, H, L, d]."""
    # The types are chosen product by product in there, which autocast would undo.
    with torch.autocast("cpu", enabled=False):
        rows = [x[0].transpose(0, 1).contiguous() for x in (q, k.to(q.dtype), v)]
        out: Tensor = _SegmentAttention.apply(  # type: ignore[no-untyped-call]
            *rows, segments, q.shape[-1] ** -0.5 if scale is None else scale, window
        )
    return out.transpose(0, 1)[None]


DENSE = 4096
"""Tokens up to which a GPU computes all scores and masks most. Beyond, flex attention skips masked blocks.

It has to be compiled first, for ten seconds and more.
"""
_flex: Callable[..., Any] | None = None
_masks: dict[tuple[tuple[Segment, ...], int | None, str, bool], Any] = {}


def _segments_gpu(
    q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...], scale: float | None, window: int | None
) -> Tensor:
    """The same by one masked product of all tokens, or by flex attention, [1, H, L, d]."""
    device = q.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)

    # Flex attention is compiled anew wherever autocast was switched.
    with torch.autocast(device, enabled=False):
        if q.shape[2] <= DENSE:
            # The kernels that take a mask know no shared heads.
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            mask = _mask(segments, window, q, blocks=False)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return _flexed(q, k, v, _mask(segments, window, q, blocks=True), scale)


def _flexed(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    global _flex
    if _flex is None:
        _flex = torch.compile(flex_attention, dynamic=True) if q.is_cuda else flex_attention
    out: Tensor = _flex(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out


def _mask(segments: tuple[Segment, ...], window: int | None, q: Tensor, blocks: bool) -> Any:
    """Who sees whom, as booleans [1, 1, L, L] or in blocks. Kept for all layers of one layout."""
    from torch.nn.attention.flex_attention import create_block_mask

    key = (segments, window, str(q.device), blocks)
    if key in _masks:
        return _masks[key]
    # The next batch has another layout. Layers of one model may have different windows.
    if any(k[0] != segments for k in _masks):
        _masks.clear()
    length = q.shape[2]
    group, part, position, root = (x.to(q.device) for x in _places(segments, length))
    reach = length if window is None else window

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = (group[i] == group[j]) & ((part[j] == 0) | (part[i] == part[j]))
        back = position[i] - position[j]
        return (own | (j < root[i])) & (back >= 0) & (back < reach)

    if blocks:
        _masks[key] = create_block_mask(allowed, None, None, length, length, device=str(q.device))
    else:
        every = torch.arange(length, device=q.device)
        _masks[key] = allowed(every, every, every[:, None], every[None, :])[None, None]
    return _masks[key]


def _places(segments: tuple[Segment, ...], length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each token's group, part (0 the prompt, 1 ... the completions), position and root; [length] each."""
    group, part, position, root = (torch.empty(length, dtype=torch.long) for _ in range(4))
    for n, seg in enumerate(segments):
        end = seg.start + seg.prompt
        group[seg.start : end + sum(seg.completions)] = n
        root[seg.start : end + sum(seg.completions)] = seg.root
        part[seg.start : end] = 0
        position[seg.start : end] = torch.arange(seg.root, seg.root + seg.prompt)
        for c, size in enumerate(seg.completions, start=1):
            part[end : end + size] = c
            position[end : end + size] = torch.arange(size) + seg.root + seg.prompt
            end += size
    return group, part, position, root


def shared_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention signature.

    Args:
        query: [B, H, L, d].
        key: [B, H_kv, L, d].
        value: [B, H_kv, L, d].
        attention_mask: read by plain SDPA only.
        kwargs: transformers' own, `kilter_segments` and `kilter_cache`.

    Returns:
        [B, L, H, d], and None for the attention weights, which nothing reads.

    Raises:
        UnsupportedAttention: if the model asks for something that the shared form does not compute.
    """
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

    # While a sampler decodes, the cache answers. While it fills, the prompts attend here like segments of
    # their own.
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
