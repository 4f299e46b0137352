"""How token losses add up: the weight of each token, and the KL beside the loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kilter.batch import Batch
from kilter.objectives.ops import masked

Aggregation = Literal["sequence", "token", "constant", "sum"]
"""What weighs the same in the loss: each completion, each token of the step, or each token of the limit.

Under "sum" a completion weighs by its length.
"""


def token_weights(batch: Batch, aggregation: str) -> Tensor:
    """[B, T] weights of the loss; the denominators are the optimizer step's, over all ranks."""
    if aggregation == "token":
        return batch.mask_BT / batch.n_tokens_total
    if aggregation == "sum":
        return batch.mask_BT / batch.n_rows_total
    if aggregation == "constant":
        return batch.mask_BT / (batch.n_rows_total * batch.extra["length_limit"])
    return batch.mask_BT / (batch.mask_BT.sum(-1, keepdim=True).clamp_min(1.0) * batch.n_rows_total)


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over each row's action tokens, [B, 1]."""
    return masked(values_BT, mask_BT).sum(-1, keepdim=True) / mask_BT.sum(-1, keepdim=True).clamp_min(1.0)


def kl_terms(logps_BT: Tensor, ref_logps_BT: Tensor, estimator: str) -> Tensor:
    """KL(pi || ref) per token for the loss, with d = log ref - log pi.

    k3: exp(d) - d - 1, unbiased in value, but its expected on-policy gradient is that of KL(ref || pi).
    k2: d^2 / 2, whose expected on-policy gradient is that of KL(pi || ref).
    k3_st: the value of k3 with the gradient of k2.
    k1 is not offered: its expected on-policy gradient is zero.
    Paper: Schulman 2020, "Approximating KL divergence".
    """
    d_BT = ref_logps_BT - logps_BT
    if estimator == "k2":
        return d_BT.square() / 2
    k3_BT = d_BT.exp() - d_BT - 1
    if estimator == "k3":
        return k3_BT
    k2_BT = d_BT.square() / 2
    return k3_BT.detach() + k2_BT - k2_BT.detach()
