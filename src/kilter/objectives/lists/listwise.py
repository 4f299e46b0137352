"""What losses on ranked lists share: a row per list, metrics, weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.grouped import Grouped
from kilter.objectives.knobs import knob
from kilter.objectives.ops import PREFERENCE, log_ratios, mean, mean_logps


def lists(values_B: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(values_NK, valid_NK): one row per list, best answer first, padded with 0 to the longest list."""
    counts_N = torch.bincount(batch.group_B, minlength=batch.groups())
    valid_NK = torch.arange(int(counts_N.max()))[None] < counts_N[:, None]
    out_NK = values_B.new_zeros(valid_NK.shape).masked_scatter(valid_NK, values_B)
    return out_NK, valid_NK


def upper(valid_NK: Tensor) -> Tensor:
    """[N, K, K] bool: i ranked above j, both present."""
    k = valid_NK.shape[1]
    return torch.ones(k, k, dtype=torch.bool).triu(1)[None] & valid_NK[:, :, None] & valid_NK[:, None, :]


def plackett_luce_nll(score_NK: Tensor, valid_NK: Tensor) -> Tensor:
    """-log P(ranking) = sum_k [ logsumexp_{i >= k} s_i - s_k ], [N]; columns are in ranked order."""
    filled_NK = score_NK.masked_fill(~valid_NK, float("-inf"))
    rest_NK = filled_NK.flip(-1).logcumsumexp(-1).flip(-1)
    return torch.where(valid_NK, rest_NK - score_NK, 0.0).sum(-1)


def best_of_rest(p_NKK: Tensor, valid_NK: Tensor) -> Tensor:
    """[N, K, K]: by place k, the probability of each answer to be the best of those from k on.

        q_ki = 1 / (sum_{j >= k, j != i} 1 / p_ij - (n_k - 2)), brought to sum 1

    n_k is how many are left. Where p comes from strengths (Bradley-Terry), q is in proportion to them. Paper:
    Price et al. 1995, "Pairwise neural network classifiers with probabilistic outputs".
    """
    k = valid_NK.shape[1]
    other_NKK = valid_NK[:, :, None] & valid_NK[:, None, :] & ~torch.eye(k, dtype=torch.bool)
    # An answer that certainly loses to another one of the rest keeps next to nothing.
    cost_NKK = torch.where(other_NKK, 1 / p_NKK.clamp_min(1e-12), 0.0)
    rest_NKK = cost_NKK.flip(-1).cumsum(-1).flip(-1).transpose(1, 2)
    left_NK = valid_NK.flip(-1).cumsum(-1).flip(-1)
    rival_NKK = torch.ones(k, k, dtype=torch.bool).triu()[None] & valid_NK[:, :, None] & valid_NK[:, None, :]
    q_NKK = torch.where(rival_NKK, 1 / (rest_NKK - left_NK[:, :, None] + 2), 0.0)
    return q_NKK / q_NKK.sum(-1, keepdim=True).clamp_min(1e-30)


def soft_plackett_luce_nll(score_NK: Tensor, valid_NK: Tensor, p_NKK: Tensor) -> Tensor:
    """Plackett-Luce where each place goes to any answer of the rest, by its probability to be their best.

    - sum_k sum_{i >= k} q_ki log P(i first of the rest), [N]. For two answers it is the expected logistic
    loss of dpo. Where the odds come from strengths, scores that differ as their logarithms do are optimal.
    """
    filled_NK = score_NK.masked_fill(~valid_NK, float("-inf"))
    rest_NK = filled_NK.flip(-1).logcumsumexp(-1).flip(-1)
    expected_NK = (best_of_rest(p_NKK, valid_NK) * score_NK[:, None, :]).sum(-1)
    return torch.where(valid_NK, rest_NK - expected_NK, 0.0).sum(-1)


def gaps(score_NK: Tensor) -> Tensor:
    """[N, K, K]: s_i - s_j."""
    return score_NK[:, :, None] - score_NK[:, None, :]


def pair_odds(p_NKK: Tensor) -> Tensor:
    """[N, K, K]: P(i better than j), with what is not known (NaN) filled in.

    It follows from the probability of the reverse, else from those of neighbours: logits add up along the
    list, as strengths of a Bradley-Terry model do. A step that nobody knows is certain, and makes it 1.
    """
    known_NKK = torch.where(p_NKK.isnan(), 1 - p_NKK.transpose(1, 2), p_NKK)
    next_NK = torch.cat([known_NKK.diagonal(1, 1, 2), known_NKK.new_ones(len(p_NKK), 1)], -1).nan_to_num(1.0)
    sure_NK = next_NK >= 1
    logit_NK = torch.where(sure_NK, 0.0, next_NK.clamp(1e-6, 1 - 1e-6).logit())
    # Up to a place, without its own: the difference of two places is the sum over the steps between them.
    steps_NK, certain_NK = logit_NK.cumsum(-1) - logit_NK, sure_NK.cumsum(-1) - sure_NK.long()
    chain_NKK = torch.where(gaps(certain_NK) < 0, 1.0, torch.sigmoid(-gaps(steps_NK)))
    chain_NKK = chain_NKK.triu(1) + (1 - chain_NKK.transpose(1, 2)).tril(-1)
    return torch.where(known_NKK.isnan(), chain_NKK, known_NKK)


@dataclass(frozen=True)
class Listwise(Grouped, ABC):
    """Base of the family: L = mean over lists of list_loss(s).

    Ties within a list were dropped from the ranking, and counted, when the data was read.
    """

    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")

    name: ClassVar[str] = "listwise"
    uses_reference: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    """True: `soft_loss` is its own, or the labels themselves are its grades."""

    @property
    def needs(self) -> Needs:
        """Ranked lists, with the reference's log-probs where the score is a log-ratio."""
        annotations = frozenset({"ref_logps"} if self.uses_reference else ())
        return Needs(
            shape="ranked",
            unit="group",
            annotations=annotations,
            learning_rate=5e-6,
            soft=self.soft,
            metrics=self.reported(PREFERENCE),
        )

    def scores(self, out: Outputs, batch: Batch) -> Tensor:
        """Score of each answer, [B]: beta (l - l_ref), or the mean log-prob where no reference is used."""
        assert out.logps_BT is not None
        if not self.uses_reference:
            return mean_logps(out.logps_BT, batch.mask_BT)
        return self.beta * log_ratios(out.logps_BT, batch.ref_logps_BT, batch.mask_BT)

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NKK: Tensor) -> Tensor:
        """Loss of lists with soft labels, [N]. p_NKK: probability that i is better than j."""
        return self.list_loss(score_NK, valid_NK, label_NK)

    @abstractmethod
    def list_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor) -> Tensor:
        """Loss of each list, [N]; columns are in ranked order, label_NK the data's own scores."""

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of list losses."""
        score_B = self.scores(out, batch)
        score_NK, valid_NK = lists(score_B, batch)
        label_NK, _ = lists(batch.score_B.to(score_B.dtype), batch)
        above_NKK = upper(valid_NK)
        gap_NKK = gaps(score_NK)
        count_N = valid_NK.sum(-1)
        last_N = score_NK.gather(1, (count_N - 1)[:, None])[:, 0]
        metrics = {
            "rewards/chosen": mean(score_NK[:, 0]),
            "rewards/rejected": mean(last_N),
            "rewards/margins": mean(score_NK[:, 0] - last_N),
            "rewards/accuracies": mean((gap_NKK > 0).float(), above_NKK.float()),
        }
        if "p_B" in batch.extra:
            k = valid_NK.shape[1]
            p_BK = batch.extra["p_B"].to(score_B.dtype)[:, :k]
            p_NKK = torch.stack([lists(p_BK[:, place], batch)[0] for place in range(k)], -1)
            loss_N = self.soft_loss(score_NK, valid_NK, label_NK, pair_odds(p_NKK))
        else:
            loss_N = self.list_loss(score_NK, valid_NK, label_NK)
        return self.summed(loss_N, out, batch, metrics)
