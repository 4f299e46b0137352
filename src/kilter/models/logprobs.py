"""The fused language-model head: log-probs of chosen tokens without a vocabulary-sized tensor.

    log pi(y | h) = z_y - logsumexp(z),   z = f(W h + b) / temperature

f is the model's own logit scale and soft cap (identity for most). Rows of h are taken in chunks so that at most
`CHUNK_ELEMENTS` logits exist at once; the log-sum-exp is taken in float32; the backward recomputes each chunk's
logits from h and W instead of storing them, so memory is flat in the number of tokens and in the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits alive at once: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output projection. weight [V, D], bias [V] or None; logits are softcap * tanh(scale * z / softcap)."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def logits(hidden_SD: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """softcap tanh(scale (W h + b) / softcap), float32."""
    z = hidden_SD @ weight.T
    z = z if z.dtype == torch.float64 else z.float()
    if bias is not None:
        z += bias.float()
    if scale != 1.0:
        z *= scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z


class _TokenLogps(torch.autograd.Function):
    """(hidden [S, D], weight [V, D], targets [S]) -> (log-probs [S], entropy [S] or empty, collision [S] or empty), float32."""

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = hidden_SD.shape[0]
        chunk = max(16, CHUNK_ELEMENTS // weight.shape[0])
        exact = torch.float64 if hidden_SD.dtype == torch.float64 else torch.float32
        logps_S = torch.empty(size, dtype=exact, device=hidden_SD.device)
        lse_S = torch.empty_like(logps_S)
        entropy_S = torch.empty_like(logps_S) if want_entropy else logps_S.new_empty(0)
        collision_S = torch.empty_like(logps_S) if want_collision else logps_S.new_empty(0)
        for start in range(0, size, chunk):
            s = slice(start, start + chunk)
            z = logits(hidden_SD[s], weight, bias, scale, softcap)
            lse = z.logsumexp(-1)
            lse_S[s] = lse
            logps_S[s] = z.gather(1, targets_S[s, None])[:, 0] - lse
            if want_entropy:
                entropy_S[s] = lse - (torch.softmax(z, -1) * z).sum(-1)
            if want_collision:
                collision_S[s] = z.mul_(2).logsumexp(-1) - 2 * lse
        ctx.mark_non_differentiable(collision_S)
        ctx.save_for_backward(hidden_SD, weight, bias, targets_S, lse_S, entropy_S)
        ctx.scale, ctx.softcap, ctx.want_entropy, ctx.chunk = scale, softcap, want_entropy, chunk
        return logps_S, entropy_S, collision_S

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_logps_S, grad_entropy_S = grads[:2]
        hidden_SD, weight, bias, targets_S, lse_S, entropy_S = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_SD) if need_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and need_bias else None
        for start in range(0, hidden_SD.shape[0], ctx.chunk):
            s = slice(start, start + ctx.chunk)
            z = logits(hidden_SD[s], weight, bias, ctx.scale, ctx.softcap)
            slope = None if ctx.softcap is None else 1 - (z / ctx.softcap).square()
            logp = z.sub_(lse_S[s, None])
            if ctx.want_entropy:
                p = logp.exp()
                grad = -p * ((logp + entropy_S[s, None]) * grad_entropy_S[s, None] + grad_logps_S[s, None])
            else:
                grad = logp.exp_().mul_(-grad_logps_S[s, None])
            grad.scatter_add_(1, targets_S[s, None], grad_logps_S[s, None].to(grad.dtype))
            if slope is not None:
                grad *= slope
            if ctx.scale != 1.0:
                grad *= ctx.scale
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            narrow = grad.to(hidden_SD.dtype)
            if grad_hidden is not None:
                torch.mm(narrow, weight, out=grad_hidden[s])
            if grad_weight is not None:
                if grad_weight.dtype == narrow.dtype:
                    grad_weight.addmm_(narrow.T, hidden_SD[s])
                else:
                    grad_weight += narrow.T @ hidden_SD[s]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            *(None,) * 5,
        )


def token_logps(
    hidden_SD: Tensor, head: Head, targets_S: Tensor, temperature: float = 1.0, entropy: bool = False, collision: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probs (nats) of `targets_S` under softmax(head(hidden)) and, on request, the entropy (nats) and log sum_v p_v^2 of each row.

    Args: hidden_SD [S, D], float32, bfloat16 or float64; head.weight is cast to hidden's dtype once.
    temperature > 0 divides the logits, so log-probs match those of a sampler at that temperature.
    Returns: ([S], [S] or None, [S] or None), float32 (float64 in, float64 out). All but the collision are differentiable.
    """
    weight = head.weight.to(hidden_SD.dtype)
    scale, softcap = head.scale, head.softcap
    if temperature != 1.0:
        # f(z)/t = (c/t) tanh(s z / c): fold the temperature into scale and cap so that one formula serves both.
        scale = scale / temperature
        softcap = None if softcap is None else softcap / temperature
    with torch.autocast(hidden_SD.device.type, enabled=False):
        logps_S, entropy_S, collision_S = _TokenLogps.apply(  # type: ignore[no-untyped-call]
            hidden_SD, weight, head.bias, targets_S, scale, softcap, entropy, collision
        )
    return logps_S, entropy_S if entropy else None, collision_S if collision else None


def plain_token_logps(hidden_SD: Tensor, head: Head, targets_S: Tensor, temperature: float = 1.0) -> Tensor:
    """The same log-probs through ordinary operations, which can be differentiated twice; vocabulary-sized, so for short batches."""
    with torch.autocast(hidden_SD.device.type, enabled=False):
        z = logits(hidden_SD, head.weight.to(hidden_SD.dtype), head.bias, head.scale, head.softcap) / temperature
        return z.log_softmax(-1).gather(1, targets_S[:, None])[:, 0]
