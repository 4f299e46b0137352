"""The divergence between two models' next-token distributions, in bounded memory.

    M = beta p_T + (1 - beta) p_S,   D = beta KL(p_T || M) + (1 - beta) KL(p_S || M)

beta 0 is KL(p_T || p_S), beta 1 is KL(p_S || p_T) (Agarwal et al. 2024, eq. 1). Tokens are taken in chunks,
and the backward recomputes each chunk. No vocabulary-sized tensor exists for all tokens at once, so memory is
flat in their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kilter.batch import Batch
from kilter.models.logprobs import CHUNK_ELEMENTS, Head, cast, logits


class Teacher(Protocol):
    """Whose distributions a student learns: its states and its head give them. Here, or in workers."""

    def head(self) -> Head:
        """What makes logits of the states."""
        ...

    def predicting(self, batch: Batch, amp: bool = False) -> Tensor:
        """The states that predict the trained tokens, [S, E], in the order of rows and tokens."""
        ...

    def begin(self, batches: Sequence[Batch], amp: bool = False) -> None:
        """Told of micro-batches that it will be asked for, in their order."""
        ...

    def _apply(self, fn: Any, recurse: bool = True) -> Any: ...


def divergence(student_SV: Tensor, teacher_SV: Tensor, beta: float) -> Tensor:
    """D of each row.

    Args:
        student_SV: the student's logits.
        teacher_SV: the teacher's logits over the same vocabulary.
        beta: share of the teacher in the mixture M, 0 to 1.

    Returns:
        [S], in nats.
    """
    log_s, log_t = student_SV.log_softmax(-1), teacher_SV.log_softmax(-1)

    # At its ends the formula is 0 times infinity. The limits are the two plain Kullback-Leibler divergences.
    if beta == 0:
        return _kl(log_t, log_s)
    if beta == 1:
        return _kl(log_s, log_t)

    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    return beta * _kl(log_t, log_m) + (1 - beta) * _kl(log_s, log_m)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row, from log-probs [S, V]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def token_divergence(
    student_SD: Tensor,
    head: Head,
    teacher_SE: Tensor,
    teacher_head: Head,
    beta: float,
    temperature: float = 1.0,
) -> Tensor:
    """D at each token, differentiable in the student's states and head only.

    Args:
        student_SD: the student's states at the positions that predict.
        head: the student's output projection.
        teacher_SE: the teacher's states at the same positions; their width may differ.
        teacher_head: the teacher's output projection, over the same vocabulary. Where one of the two has more
            rows, to fill up its matrix, the distributions are those over the rows that both have.
        beta: share of the teacher in the mixture M, 0 to 1.
        temperature: divides the logits of both.

    Returns:
        [S], in nats, float32 (float64 in, float64 out).
    """
    size = student_SD.shape[0]
    vocabulary = student_SD.shape[1] if head.weight is None else head.weight.shape[0]
    # About four matrices of logits are alive at once: two models' and their log-softmax.
    chunk = max(16, CHUNK_ELEMENTS // (4 * vocabulary))

    def one(s: Tensor, t: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        student = cast(Head(weight, bias, head.scale, head.softcap), s.dtype)
        z_s = logits(s, student) / temperature
        with torch.no_grad():
            z_t = logits(t, cast(teacher_head, t.dtype)) / temperature
        # Sizes of a family round their matrices up differently. No token of the tokenizer lies beyond.
        common = min(z_s.shape[1], z_t.shape[1])
        return divergence(z_s[:, :common], z_t[:, :common], beta)

    # Autocast would round the logits to bfloat16, and the divergence of two near models is a small difference
    # of them.

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
