"""The fused language-model head: log-probs of chosen tokens in bounded memory.

    log pi(y | h) = z_y - logsumexp(z),   z = f(W h + b) / temperature

f is the model's own logit scale and soft cap (identity for most). At most `CHUNK_ELEMENTS` logits exist at
once. The forward takes rows of h in chunks, because the log-sum-exp (float32) needs whole rows. The backward
takes the vocabulary in blocks. A block's share of W's gradient is then complete, and only the small gradient
of h is summed up. The backward needs

    d log pi(y | h) / dz = onehot(y) - softmax(z)

A small batch keeps it from the forward (at most `KEPT_BYTES`). A large one recomputes it from h and W. So
memory is flat in the number of tokens and in the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kilter.models.products import matmul

CHUNK_ELEMENTS = 1 << 24
"""Logits alive at once: 64 MiB in float32."""
KEPT_BYTES = 1 << 28
"""Largest matrix that is kept for the backward instead of being recomputed."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output projection: weight [V, D], bias [V] or None. Logits are softcap tanh(scale z / softcap).

    Without a weight the states are the logits: of a model whose own are read.
    """

    weight: Tensor | None
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def cast(head: Head, dtype: torch.dtype) -> Head:
    """The head in the type of the states that it reads."""
    return head if head.weight is None else replace(head, weight=head.weight.to(dtype))


def logits(hidden_SD: Tensor, head: Head) -> Tensor:
    """softcap tanh(scale (W h + b) / softcap), [S, V], float32 or wider."""
    # The model's own logits belong to its graph, and must not be changed in place.
    z = hidden_SD.clone() if head.weight is None else matmul(hidden_SD, head.weight.T)
    z = z if z.dtype == torch.float64 else z.float()

    # In place where possible: this is the largest tensor of a training step.
    if head.bias is not None:
        z += head.bias.float()
    if head.scale != 1.0:
        z *= head.scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    return z


class _TokenLogps(torch.autograd.Function):
    """Hidden states [S, D], weight [V, D] and targets [S] to log-probs, entropy and collision.

    Each is [S], float32 or wider, or empty if it is not wanted.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets_S: Tensor,
        scale: float,
        softcap: float | None,
        want_entropy: bool,
        want_collision: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = hidden_SD.shape[0]
        chunk = max(16, CHUNK_ELEMENTS // weight.shape[0])
        exact = torch.float64 if hidden_SD.dtype == torch.float64 else torch.float32
        # The weight's gradient must come back in the master copy's type, although the product ran in a
        # narrower one.
        ctx.weight_dtype, weight = weight.dtype, weight.to(hidden_SD.dtype)
        head = Head(weight, bias, scale, softcap)

        logps_S = torch.empty(size, dtype=exact, device=hidden_SD.device)
        lse_S = torch.empty_like(logps_S)
        entropy_S = torch.empty_like(logps_S) if want_entropy else logps_S.new_empty(0)
        collision_S = torch.empty_like(logps_S) if want_collision else logps_S.new_empty(0)
        kept_SV = hidden_SD.new_empty(size, weight.shape[0]) if keep else None
        # Rows in chunks: a log-sum-exp needs a whole row of logits, but not those of other rows.
        for start in range(0, size, chunk):
            s = slice(start, start + chunk)
            z = logits(hidden_SD[s], head)
            lse = z.logsumexp(-1)
            lse_S[s] = lse
            logps_S[s] = z.gather(1, targets_S[s, None])[:, 0] - lse
            if want_entropy:
                entropy_S[s] = lse - (torch.softmax(z, -1) * z).sum(-1)
            if want_collision:
                collision_S[s] = (2 * z).logsumexp(-1) - 2 * lse
            if kept_SV is not None:
                # softmax - onehot. A sure token's p - 1 is tiny: expm1 has it exactly, before it is rounded.
                kept = z.sub_(lse[:, None]).exp_()
                kept_SV[s] = kept.scatter_(1, targets_S[s, None], logps_S[s, None].expm1())

        ctx.mark_non_differentiable(collision_S)
        ctx.save_for_backward(hidden_SD, weight, bias, targets_S, lse_S, entropy_S, kept_SV)
        ctx.scale, ctx.softcap, ctx.want_entropy = scale, softcap, want_entropy
        return logps_S, entropy_S, collision_S

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_logps_S = grads[0]
        hidden_SD, weight, bias, targets_S, lse_S, entropy_S, kept_SV = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_hidden = torch.zeros_like(hidden_SD, dtype=wide) if need_hidden else None
        grad_weight = torch.empty_like(weight, dtype=ctx.weight_dtype) if need_weight else None
        grad_bias = torch.empty_like(bias) if bias is not None and need_bias else None

        # A row of the kept matrix lacks its factor. The small states take it, not the vocabulary-sized
        # matrix.
        factor_S = -grad_logps_S * ctx.scale
        outer_SD = hidden_SD if kept_SV is None else hidden_SD * factor_S[:, None].to(hidden_SD.dtype)

        # The vocabulary in blocks: each block's share of the weight's gradient is complete at once.
        block = max(64, CHUNK_ELEMENTS // max(1, hidden_SD.shape[0]))
        for start in range(0, weight.shape[0], block):
            v = slice(start, start + block)
            if kept_SV is not None:
                narrow = kept_SV[:, v]
                if grad_bias is not None:
                    grad_bias[v] = factor_S.to(wide) @ narrow.to(wide)
            else:
                part = Head(weight[v], None if bias is None else bias[v], ctx.scale, ctx.softcap)
                place_S = targets_S - start
                grad = _logits_grad(ctx, hidden_SD, part, grad_logps_S, grads[1], place_S, lse_S, entropy_S)
                if grad_bias is not None:
                    grad_bias[v] = grad.sum(0)
                narrow = grad.to(hidden_SD.dtype)
            if grad_hidden is not None:
                grad_hidden += matmul(narrow, weight[v])
            if grad_weight is not None:
                grad_weight[v] = matmul(narrow.T, outer_SD)
        if grad_hidden is not None and kept_SV is not None:
            grad_hidden *= factor_S[:, None]
        return (
            (None if grad_hidden is None else grad_hidden.to(hidden_SD.dtype)),
            grad_weight,
            grad_bias,
            *(None,) * 6,
        )


def _logits_grad(
    ctx: Any,
    hidden_SD: Tensor,
    head: Head,
    grad_logps_S: Tensor,
    grad_entropy_S: Tensor,
    place_S: Tensor,
    lse_S: Tensor,
    entropy_S: Tensor,
) -> Tensor:
    """Gradient of the loss by one block's logits before scale and soft cap, recomputed.

    Args:
        head: the block's rows of the output projection.
        place_S: the targets' columns in this block, outside it for most.
    """
    z = logits(hidden_SD, head)
    # tanh' = 1 - tanh^2, from the capped logits while they are still there.
    slope = None if ctx.softcap is None else 1 - (z / ctx.softcap).square()
    logp = z.sub_(lse_S[:, None])
    if ctx.want_entropy:
        grad = -logp.exp() * ((logp + entropy_S[:, None]) * grad_entropy_S[:, None] + grad_logps_S[:, None])
    else:
        grad = logp.exp_().mul_(-grad_logps_S[:, None])

    # The onehot term, for the rows whose target lies in this block.
    inside_S = (place_S >= 0) & (place_S < grad.shape[1])
    grad.scatter_add_(
        1,
        place_S.clamp(0, grad.shape[1] - 1)[:, None],
        torch.where(inside_S, grad_logps_S, 0)[:, None].to(grad.dtype),
    )
    if slope is not None:
        grad *= slope
    return grad if ctx.scale == 1.0 else grad.mul_(ctx.scale)


def token_logps(
    hidden_SD: Tensor,
    head: Head,
    targets_S: Tensor,
    temperature: float = 1.0,
    entropy: bool = False,
    collision: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probs of `targets_S` under softmax(head(hidden)).

    Args:
        hidden_SD: states that predict, float32, bfloat16 or float64.
        head: the output projection; its weight is cast to hidden's type once.
        targets_S: token ids.
        temperature: > 0, divides the logits, so that log-probs match those of a sampler at that temperature.
        entropy: whether to give each row's entropy too.
        collision: whether to give each row's log sum_v p_v^2 too.

    Returns:
        Log-probs [S] (nats), entropy [S] (nats) or None, collision [S] or None. They are float32, or float64
        if the states are. All but the collision are differentiable.
    """
    if head.weight is None:
        return _from_logits(hidden_SD, targets_S, temperature, entropy, collision)
    scale, softcap = head.scale, head.softcap
    if temperature != 1.0:
        # f(z)/t = (c/t) tanh(s z / c): fold the temperature into scale and cap so that one formula serves
        # both.
        scale = scale / temperature
        softcap = None if softcap is None else softcap / temperature
    differentiated = torch.is_grad_enabled() and (hidden_SD.requires_grad or head.weight.requires_grad)
    # The kept matrix is softmax - onehot, which is the whole gradient only without soft cap and entropy.
    small = hidden_SD.shape[0] * head.weight.shape[0] * hidden_SD.element_size() <= KEPT_BYTES
    keep = differentiated and small and softcap is None and not entropy
    with torch.autocast(hidden_SD.device.type, enabled=False):
        logps_S, entropy_S, collision_S = _TokenLogps.apply(  # type: ignore[no-untyped-call]
            hidden_SD, head.weight, head.bias, targets_S, scale, softcap, entropy, collision, keep
        )
    return logps_S, entropy_S if entropy else None, collision_S if collision else None


def _from_logits(
    logits_SV: Tensor, targets_S: Tensor, temperature: float, entropy: bool, collision: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`token_logps` of logits that exist already, in chunks whose softmax the backward computes again."""

    def one(z_SV: Tensor, targets_S: Tensor) -> tuple[Tensor, Tensor]:
        log_p_SV = (z_SV.to(torch.promote_types(z_SV.dtype, torch.float32)) / temperature).log_softmax(-1)
        own_S = log_p_SV.gather(1, targets_S[:, None])[:, 0]
        return own_S, -(log_p_SV.exp() * log_p_SV).sum(-1) if entropy else own_S.new_empty(0)

    def squares(z_SV: Tensor) -> Tensor:
        log_p_SV = (z_SV.float() / temperature).log_softmax(-1)
        return (2 * log_p_SV).logsumexp(-1)

    # Autocast would round the logits again.
    chunk = max(16, CHUNK_ELEMENTS // max(1, logits_SV.shape[1]))
    starts = range(0, logits_SV.shape[0], chunk)
    with torch.autocast(logits_SV.device.type, enabled=False):
        parts = [
            checkpoint(one, logits_SV[i : i + chunk], targets_S[i : i + chunk], use_reentrant=False)
            for i in starts
        ]
        with torch.no_grad():
            found = [squares(logits_SV[i : i + chunk]) for i in starts] if collision else []
    logps_S = torch.cat([own for own, _ in parts])
    entropy_S = torch.cat([h for _, h in parts]) if entropy else None
    return logps_S, entropy_S, torch.cat(found) if collision else None


def plain_token_logps(hidden_SD: Tensor, head: Head, targets_S: Tensor, temperature: float = 1.0) -> Tensor:
    """The same log-probs through ordinary operations, which can be differentiated twice.

    All logits exist at once, so this is for short batches.
    """
    with torch.autocast(hidden_SD.device.type, enabled=False):
        z = logits(hidden_SD, cast(head, hidden_SD.dtype)) / temperature
        return z.log_softmax(-1).gather(1, targets_S[:, None])[:, 0]
