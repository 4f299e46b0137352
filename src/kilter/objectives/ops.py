"""Arithmetic that several objectives share: reductions of log-probs, links, views of a batch, metrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.batch import Batch, Mean

LARGE = 30.0


def masked(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """0 off the mask, whatever stands there."""
    return torch.where(mask_BT > 0, values_BT, 0.0)


def sequence_logps(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """l(y) = sum_t mask_t log pi(y_t | x, y_<t); nats, [B]."""
    return masked(logps_BT, mask_BT).mul(mask_BT).sum(-1)


def mean_logps(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """lbar(y) = l(y) / |y|; nats per token, [B]."""
    return sequence_logps(logps_BT, mask_BT) / mask_BT.sum(-1).clamp_min(1.0)


def log_ratios(logps_BT: Tensor, ref_logps_BT: Tensor | None, mask_BT: Tensor) -> Tensor:
    """D(y) = l(y) - l_ref(y); nats, [B]."""
    assert ref_logps_BT is not None, "this method needs the reference's log-probs"
    return sequence_logps(logps_BT, mask_BT) - sequence_logps(ref_logps_BT, mask_BT)


def smoothed(z_N: Tensor, flipped: float | Tensor) -> Tensor:
    """-(1 - e) log sigmoid(z) - e log sigmoid(-z): the logistic loss if a share e of the labels is flipped.

    e is one number for all, or one per pair.
    """
    loss_N = -logsigmoid(z_N)
    return (
        loss_N
        if isinstance(flipped, float) and flipped == 0
        else (1 - flipped) * loss_N - flipped * logsigmoid(-z_N)
    )


def growth(x: Tensor) -> Tensor:
    """exp(x) - 1, but a straight line beyond x = 30, so that a step far off the data keeps a finite slope."""
    return x.clamp_max(LARGE).expm1() + math.exp(LARGE) * (x - LARGE).clamp_min(0)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near 0 and far below it (Maechler 2012)."""
    x = x.clamp_max(-torch.finfo(x.dtype).eps)
    near = x > -math.log(2)
    # Each branch is fed values on which its own gradient is finite, so that the other one's NaN never reaches
    # the input.
    return torch.where(
        near, (-torch.expm1(torch.where(near, x, -1.0))).log(), torch.log1p(-torch.where(near, -1.0, x).exp())
    )


def pairs(values_B: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(chosen_N, rejected_N) of a [B] tensor; rows of a pair are adjacent, the chosen one first."""
    assert values_B.shape[0] == 2 * batch.groups(), "a pairwise objective got groups with K != 2"
    both_N2 = values_B.view(-1, 2)
    return both_N2[:, 0], both_N2[:, 1]


def expected(loss_N: Tensor, flipped_N: Tensor, batch: Batch) -> Tensor:
    """p L(w, l) + (1 - p) L(l, w): the expected loss of pairs whose label holds with probability p.

    Args:
        loss_N: of the pairs as they are labelled.
        flipped_N: of the same pairs labelled the other way round.
        batch: has p_B where labels are soft.
    """
    # What is not known holds for certain.
    p_N = batch.extra["p_B"][::2, 1].nan_to_num(1.0).to(loss_N)
    return p_N * loss_N + (1 - p_N) * flipped_N


def chosen_nll(logps_BT: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood of the groups' first completions: this batch's share of the step's mean.

    -sum_{i in first} sum_t mask_it log pi(y_it) / sum_{i in first} |y_i|, the second sum over all ranks.
    """
    first_B1 = batch.first_B()[:, None]
    return (
        -masked(torch.where(first_B1, logps_BT, 0.0), batch.mask_BT).mul(batch.mask_BT).sum()
        / batch.extra["n_first_tokens_total"]
    )


def mean(values: Tensor, weight: Tensor | None = None) -> Mean:
    """Metric from per-item values, each of weight 1 unless `weight` is given."""
    values = values.detach().float()
    if weight is None:
        return Mean(values.sum(), torch.tensor(float(values.numel())))
    return Mean((values * weight).sum(), weight.sum())


PREFERENCE = frozenset({"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"})
"""Names of `preference_metrics`."""


def preference_metrics(chosen_N: Tensor, rejected_N: Tensor) -> dict[str, Mean]:
    """Rewards of both sides, their gap, and how often the chosen side is ahead; TRL's names."""
    return {
        "rewards/chosen": mean(chosen_N),
        "rewards/rejected": mean(rejected_N),
        "rewards/margins": mean(chosen_N - rejected_N),
        "rewards/accuracies": mean((chosen_N > rejected_N).float()),
    }


def uniform_group_weights(batch: Batch) -> Tensor:
    """1 / (groups in the optimizer step, over all ranks), [N]."""
    return (1 / batch.n_groups_total).expand(batch.groups())
