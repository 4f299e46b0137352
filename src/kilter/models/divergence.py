"""The divergence between two models' next-token distributions, without a vocabulary-sized tensor for all tokens at once.

    M = beta p_T + (1 - beta) p_S,   D = beta KL(p_T || M) + (1 - beta) KL(p_S || M)

beta 0 is KL(p_T || p_S), beta 1 is KL(p_S || p_T) (Agarwal et al. 2024, eq. 1). Tokens are taken in chunks; the backward
recomputes each chunk, so memory is flat in the number of tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kilter.models.logprobs import CHUNK_ELEMENTS, Head, logits


def divergence(student_SV: Tensor, teacher_SV: Tensor, beta: float) -> Tensor:
    """D of each row, from logits; nats, [S]."""
    log_s, log_t = student_SV.log_softmax(-1), teacher_SV.log_softmax(-1)
    if beta == 0:
        return (log_t.exp() * (log_t - log_s)).sum(-1)
    if beta == 1:
        return (log_s.exp() * (log_s - log_t)).sum(-1)
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    return beta * (log_t.exp() * (log_t - log_m)).sum(-1) + (1 - beta) * (log_s.exp() * (log_s - log_m)).sum(
        -1
    )


def token_divergence(
    student_SD: Tensor,
    head: Head,
    teacher_SE: Tensor,
    teacher_head: Head,
    beta: float,
    temperature: float = 1.0,
) -> Tensor:
    """D at each token, [S], float32 (float64 in, float64 out); differentiable in the student's states and head only.

    Args: states of both models at the positions that predict (their widths may differ, their vocabularies may not);
    temperature divides both models' logits.
    """
    size, vocabulary = student_SD.shape[0], head.weight.shape[0]
    chunk = max(16, CHUNK_ELEMENTS // (4 * vocabulary))

    def one(s: Tensor, t: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z_s = logits(s, weight.to(s.dtype), bias, head.scale, head.softcap) / temperature
        with torch.no_grad():
            z_t = (
                logits(
                    t,
                    teacher_head.weight.to(t.dtype),
                    teacher_head.bias,
                    teacher_head.scale,
                    teacher_head.softcap,
                )
                / temperature
            )
        return divergence(z_s, z_t, beta)

    with torch.autocast(student_SD.device.type, enabled=False):
        parts = [
            checkpoint(
                one,
                student_SD[i : i + chunk],
                teacher_SE[i : i + chunk].detach(),
                head.weight,
                head.bias,
                use_reentrant=False,
            )
            for i in range(0, size, chunk)
        ]
    return torch.cat(parts)
