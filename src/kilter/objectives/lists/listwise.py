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


def soft_plackett_luce_nll(score_NK: Tensor, valid_NK: Tensor, p_NK: Tensor) -> Tensor:
    """Plackett-Luce where the k-th place goes to k with probability p_k and to the next one with 1 - p_k.

    - sum_k [ p_k log P(k first of the rest) + (1 - p_k) log P(k + 1 first of the rest) ], [N]. For two
    answers it is the expected logistic loss of dpo.
    """
    # The next answer's score, in place of the own one; the last answer has no next one.
    next_NK = torch.cat([score_NK[:, 1:], score_NK[:, -1:]], -1)
    has_next_NK = torch.cat([valid_NK[:, 1:], torch.zeros_like(valid_NK[:, :1])], -1)
    shift_NK = torch.where(has_next_NK, (1 - p_NK) * (score_NK - next_NK), 0.0)
    return plackett_luce_nll(score_NK, valid_NK) + shift_NK.sum(-1)


def gaps(score_NK: Tensor) -> Tensor:
    """[N, K, K]: s_i - s_j."""
    return score_NK[:, :, None] - score_NK[:, None, :]


def pair_odds(p_NK: Tensor) -> Tensor:
    """[N, K, K]: P(i better than j) for i ranked above j, from the probabilities over the next one.

    Logits add up along the list, as strengths of a Bradley-Terry model do. A certain step makes it 1.
    """
    sure_NK = p_NK >= 1
    logit_NK = torch.where(sure_NK, 0.0, p_NK.clamp(1e-6, 1 - 1e-6).logit())
    # Up to a place, without its own: the difference of two places is the sum over the steps between them.
    steps_NK, certain_NK = logit_NK.cumsum(-1) - logit_NK, sure_NK.cumsum(-1) - sure_NK.long()
    return torch.where(gaps(certain_NK) < 0, 1.0, torch.sigmoid(-gaps(steps_NK)))


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

    def soft_loss(self, score_NK: Tensor, valid_NK: Tensor, label_NK: Tensor, p_NK: Tensor) -> Tensor:
        """Loss of lists with soft labels, [N]. p_NK: probability that an answer is better than the next."""
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
            p_NK, _ = lists(batch.extra["p_B"].to(score_B.dtype), batch)
            loss_N = self.soft_loss(score_NK, valid_NK, label_NK, p_NK)
        else:
            loss_N = self.list_loss(score_NK, valid_NK, label_NK)
        return self.summed(loss_N, out, batch, metrics)
