"""What every loss on preference pairs shares, so that a relative of DPO is one formula.

A member writes `pair_loss` in terms of two sides w (chosen) and l (rejected), and, where its implicit reward
is not beta log pi/pi_ref, `reward`. Everything else (reductions, weights, metrics, validation) stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid

from kilter.batch import Batch, Loss, Needs, Outputs, Unit
from kilter.objectives.grouped import Grouped
from kilter.objectives.knobs import knob
from kilter.objectives.ops import PREFERENCE, expected, mean, pairs, preference_metrics, sequence_logps


class Side(NamedTuple):
    """One side of N pairs: summed log-probs of policy and reference (nats), and trained tokens."""

    logps_N: Tensor
    ref_N: Tensor
    tokens_N: Tensor

    @property
    def ratio_N(self) -> Tensor:  # noqa: N802
        """D = l_theta - l_ref."""
        return self.logps_N - self.ref_N

    @property
    def mean_N(self) -> Tensor:  # noqa: N802
        """lbar = l / |y|."""
        return self.logps_N / self.tokens_N


@dataclass(frozen=True)
class Pairwise(Grouped):
    """Base of the family: L = mean over pairs of pair_loss(w, l), by default -log sigmoid(z).

    `uses_reference` False: no reference is loaded. If a pair's label is soft, its loss is the expected one,
    p pair_loss(w, l) + (1 - p) pair_loss(l, w), where `soft` allows it.
    """

    beta: float = knob(0.1, "inverse strength of the pull to the reference", "(0, inf)", "0.01 to 0.5")

    name: ClassVar[str] = "pairwise"
    uses_reference: ClassVar[bool] = True
    computes: ClassVar[frozenset[str]] = frozenset({"logps"})
    unit: ClassVar[Unit] = "group"
    rate: ClassVar[float] = 5e-6
    soft: ClassVar[bool] = True
    """False: its loss mixes the pairs of a step, so that no label can be flipped by itself."""

    def pair_loss(self, w: Side, l: Side) -> Tensor:  # noqa: E741 - w and l are the papers' names
        """Loss of each pair, [N]: -log sigmoid(z)."""
        return -logsigmoid(self.margin(w, l))

    @property
    def per_token(self) -> bool:
        """Whether the reward is a mean over tokens instead of a sum."""
        return False

    def reward(self, side: Side) -> Tensor:
        """Implicit reward, [N]: beta times the log-ratio, or the log-prob; summed or per token."""
        total_N = side.ratio_N if self.uses_reference else side.logps_N
        return self.beta * (total_N / side.tokens_N if self.per_token else total_N)

    def margin(self, w: Side, l: Side) -> Tensor:  # noqa: E741
        """z = reward(w) - reward(l)."""
        return self.reward(w) - self.reward(l)

    @property
    def needs(self) -> Needs:
        """Policy (and reference) log-probs; the two rows of a pair together."""
        annotations = frozenset({"ref_logps"} if self.uses_reference else ())
        return Needs(
            shape="pairs",
            unit=self.unit,
            annotations=annotations,
            outputs=self.computes,
            learning_rate=self.rate,
            soft=self.soft,
            metrics=self.reported(PREFERENCE | {"logps/chosen", "logps/rejected"}),
        )

    def reduce(self, logps_BT: Tensor, batch: Batch) -> Tensor:
        """Token log-probs to one number per row, [B]: their sum."""
        return sequence_logps(logps_BT, batch.mask_BT)

    def sides(self, out: Outputs, batch: Batch) -> tuple[Side, Side]:
        """(w, l) of a batch of pairs."""
        assert out.logps_BT is not None
        logps = pairs(self.reduce(out.logps_BT, batch), batch)
        tokens = pairs(batch.mask_BT.sum(-1).clamp_min(1.0), batch)
        ref = logps
        if self.uses_reference:
            assert batch.ref_logps_BT is not None
            ref = pairs(self.reduce(batch.ref_logps_BT, batch), batch)
        return Side(logps[0], ref[0], tokens[0]), Side(logps[1], ref[1], tokens[1])

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of pair losses."""
        w, l = self.sides(out, batch)  # noqa: E741
        chosen_N, rejected_N = self.reward(w), self.reward(l)
        metrics = preference_metrics(chosen_N, rejected_N) | {
            "logps/chosen": mean(w.logps_N),
            "logps/rejected": mean(l.logps_N),
        }
        loss_N = self.pair_loss(w, l)
        if self.soft and "p_B" in batch.extra:
            loss_N = expected(loss_N, self.pair_loss(l, w), batch)
        return self.summed(loss_N, out, batch, metrics)
