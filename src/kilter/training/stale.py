"""How far the policy has moved away from the weights that drew its tokens, by the age of those weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kilter.batch import Metrics
from kilter.types import Encoded

CAP = 2.0
"""The methods' usual cap of the weight against the sampler."""

AGES = ("0", "1", "2+")
"""Updates that the weights were behind, as the metrics tell them apart."""


def drawn_by(groups: Sequence[Encoded], width: int) -> Tensor:
    """Updates that the weights had seen which drew each token, [B, T]; 0 where nobody knows."""
    answers = [c for g in groups for c in g.group.completions]
    version_BT = torch.zeros(len(answers), width)
    for row, answer in enumerate(answers):
        # A single version stands for all tokens; spans say it token by token.
        for start, end, version in answer.versions or ((0, width, answer.policy_version or 0),):
            version_BT[row, start:end] = version
    return version_BT


def sums_by_age(gap_BT: Tensor, mask_BT: Tensor, age_BT: Tensor) -> Tensor:
    """What `moved` needs, to be added up over ranks.

    Args:
        gap_BT: log-prob under the policy less that under the sampler, nats.
        mask_BT: 1 on trained tokens.
        age_BT: updates that the sampler was behind.
    """
    kl_BT = (gap_BT.exp() - gap_BT - 1) * mask_BT
    weight_BT = gap_BT.exp().clamp_max(CAP) * mask_BT
    by_age = []
    for n in range(len(AGES)):
        own_BT = mask_BT * ((age_BT >= n) if n == len(AGES) - 1 else (age_BT == n))
        by_age += [(kl_BT * own_BT).sum(), own_BT.sum()]
    return torch.stack([weight_BT.sum(), weight_BT.square().sum(), *by_age]).double()


def moved(total: Tensor) -> Metrics:
    """Metrics of a step from the sums of all ranks.

    Effective sample size is (sum w)^2 / (n sum w^2) over the tokens, 1 for equal weights. The KL is that of
    the sampler to the policy per token (k3), for each age that the step's tokens have.
    """
    weight, squared, *by_age = total.tolist()
    kls, counts = by_age[::2], by_age[1::2]
    if squared == 0:
        return {}
    found: Metrics = {"async/effective_sample_size": weight**2 / (sum(counts) * squared)}
    for age, kl, count in zip(AGES, kls, counts, strict=True):
        found |= {f"sampling/mismatch_kl/{age}": kl / count} if count else {}
    stale = sum(counts[1:])
    return found | ({"async/stale_kl": sum(kls[1:]) / stale} if stale else {})
