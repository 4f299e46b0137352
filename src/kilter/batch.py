"""Tensors between the loop and an objective: the batch, the objective's needs, its outputs and its loss.

Shape suffixes: B rows (completions), T completion tokens, N groups (prompts), K completions of a group.
T never counts prompt tokens, because objectives do not see prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from kilter.types import Group, Shape


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective asks of the learner, which computes nothing else.

    Args:
        shape: shape of the data; "rollouts" are scored completions that the policy sampled.
        unit: rows that must stay together when the batch is split.
        models: models that train: "policy" (a log-prob per token), "critic" (a value per token) or
            "reward" (a scalar per completion).
        annotations: tensors that are put on a batch before the loss, such as "ref_logps", "old_logps",
            "old_values" or "mismatched_kl"; training/annotate.py has the names.
        outputs: fields of Outputs to compute; "divergence" needs a teacher.
        learning_rate: default of a recipe that sets none.
        inner_epochs: default number of passes over one batch of rollouts.
        rows: how the data's groups become rows, by the names of data/arrange.py.
        labels: labels of judged answers that the objective learns from.
        opponent: model that writes the second completion of a pair; None is the policy.
        siblings: least number of completions of one prompt that are compared with each other.
            If a user may choose more than two, the method's field is called `k`.
        kl_coefficient: start of a KL controller; None says that the method has no coefficient to move.
        settings: numbers for the output "divergence" and the opponent "mixture", by their name.
        soft: whether the loss reads how probable labels are, such as `p_B`. If not, labels count as certain.
        corrections: how the loss corrects for answers of older weights. "decoupled": a truncated importance
            weight beside the loss. "anchored": the ratio of the loss is taken to the policy that sampled.
        moments: of rollouts: what `prepare` reads of other groups, by name. Each is a function from a batch
            to the values, [any]; `moments_of` has their count, mean and variance over the rows of all ranks.
            An empty mapping says that `prepare` looks at one group at a time. None: it wants the rows of all
            ranks, which costs their transfer in every step.
        metrics: names of what the loss reports beside "loss", by which a run may choose its best weights.
    """

    shape: Shape
    unit: Unit
    models: frozenset[str] = frozenset({"policy"})
    annotations: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset({"logps"})
    learning_rate: float = 1e-5
    inner_epochs: int = 1
    rows: str = "stored"
    labels: frozenset[int] = frozenset({0, 1})
    opponent: Literal["reference", "mixture"] | None = None
    siblings: int = 1
    kl_coefficient: float | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    soft: bool = False
    corrections: frozenset[str] = frozenset()
    moments: Mapping[str, Values] | None = None
    metrics: frozenset[str] = frozenset()

    @property
    def teacher(self) -> bool:
        """Whether the method learns from a second model's distributions."""
        return "divergence" in self.outputs


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one optimizer step, or of one micro-batch of it. A row is a completion.

    The rows of a group are adjacent. If scores are known, the best row of a group comes first.
    With several processes the groups of a step are dealt out in turn: group j of rank r is number
    j * world + r of the step. A process that got none has a batch without rows.
    The `n_*_total` count over the WHOLE optimizer step and all ranks. They are the only denominators that an
    objective may use. `extra` always has two more, n_first_rows_total and n_first_tokens_total: the rows that
    `first_B` picks, and their trained tokens.

    The end of a name says how `select_groups` cuts the tensor: *_BT and *_B by row, *_N by group. Tensors
    with other names stay whole.

    Args:
        prompts_N: prompt tokens, for the learner's forward alone.
        tokens_BT: int64; every other *_BT is float32.
        group_B: group of each row, in [0, N).
        truncated_B: of rollouts: 1 where the length limit ended the completion (no EOS).
        active_N: of rollouts, written by `prepare`: False on groups whose gradient is exactly zero.
            These groups are counted and not forwarded.
        state: tensors that the objective carried over from the step before.
        extra: tensors by name: rare annotations, tensors of a hook, tensors of a mixture's members. p_B is
            there where labels are soft: [B, K] the probability that the answer is better than the one at each
            place of its group, NaN where it is not known.
    """

    prompts_N: tuple[Tensor, ...]
    tokens_BT: Tensor
    mask_BT: Tensor
    length_B: Tensor
    group_B: Tensor
    score_B: Tensor
    margin_N: Tensor
    n_tokens_total: Tensor
    n_rows_total: Tensor
    n_groups_total: Tensor
    token_score_BT: Tensor | None = None
    ref_logps_BT: Tensor | None = None
    old_logps_BT: Tensor | None = None
    old_values_BT: Tensor | None = None
    sampling_logps_BT: Tensor | None = None
    advantage_BT: Tensor | None = None
    return_BT: Tensor | None = None
    weight_BT: Tensor | None = None
    group_weight_N: Tensor | None = None
    truncated_B: Tensor | None = None
    active_N: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self) -> int:
        """The number of completions, B."""
        return self.tokens_BT.shape[0]

    def groups(self) -> int:
        """The number of prompts, N."""
        return len(self.prompts_N)

    def select_groups(self, index: Sequence[int]) -> Batch:
        """The sub-batch of these groups, in this order, cut to its own longest completion."""
        # A process may have no group of a step: its batch has no rows, and keeps its fields.
        rows = [(self.group_B == i).nonzero()[:, 0] for i in index]
        keep = torch.cat([torch.zeros(0, dtype=torch.long), *rows])
        width = int(self.length_B[keep].max()) if len(keep) else 0
        renumber = {old: new for new, old in enumerate(index)}
        groups_N = torch.tensor(list(index), dtype=torch.long)

        def cut(name: str, value: Any) -> Any:
            if isinstance(value, Tensor) and name.endswith("_BT"):
                return value[keep, :width]
            if isinstance(value, Tensor) and name.endswith("_B"):
                return value[keep]
            if isinstance(value, Tensor) and name.endswith("_N"):
                return value[groups_N]
            return value

        values: dict[str, Any] = {f.name: cut(f.name, getattr(self, f.name)) for f in fields(self)}
        values["extra"] = {name: cut(name, value) for name, value in self.extra.items()}
        values["group_B"] = torch.tensor([renumber[int(g)] for g in values["group_B"]], dtype=torch.long)
        values["prompts_N"] = tuple(self.prompts_N[i] for i in index)
        return Batch(**values)

    def rows_where(self, keep_B: Tensor, **changes: Any) -> Batch:
        """The batch of these rows alone, then with `changes`. Groups and width stay as they are."""

        def cut(name: str, value: Any) -> Any:
            return value[keep_B] if isinstance(value, Tensor) and name.endswith(("_BT", "_B")) else value

        values: dict[str, Any] = {f.name: cut(f.name, getattr(self, f.name)) for f in fields(self)}
        values["extra"] = {name: cut(name, value) for name, value in self.extra.items()}
        return Batch(**values | changes)

    def first_B(self) -> Tensor:  # noqa: N802
        """[B] bool: the rows worth imitating, which are the first (best) completion of each group.

        A group's only completion is left out if its score is not positive: it was judged bad.
        """
        first = torch.ones(self.rows(), dtype=torch.bool)
        first[1:] = self.group_B[1:] != self.group_B[:-1]
        alone = first.clone()
        alone[:-1] &= first[1:]
        return first & ~(alone & (self.score_B <= 0))

    def counted(self) -> Batch:
        """The batch with `n_*_total` counted over its own rows.

        Summed over ranks, these counts are the denominators of a mini-batch.
        """
        one = self.n_rows_total.new_tensor
        first_B = self.first_B()
        return self.with_(
            n_tokens_total=self.mask_BT.sum(),
            n_rows_total=one(float(self.rows())),
            n_groups_total=one(float(self.groups())),
        ).with_extra(
            n_first_rows_total=first_B.sum().to(self.n_rows_total.dtype),
            n_first_tokens_total=self.mask_BT[first_B].sum(),
        )

    def with_(self, **changes: Any) -> Batch:
        """A copy with these fields replaced."""
        return replace(self, **changes)

    def with_extra(self, **values: Tensor) -> Batch:
        """A copy whose `extra` also has these tensors; a given name replaces the old one."""
        return replace(self, extra={**self.extra, **values})


@dataclass(frozen=True, slots=True)
class Outputs:
    """The forward's results, all float32. A field that `Needs.outputs` does not name is None.

    Args:
        logps_BT: log-prob of each token, in nats.
        entropy_BT: entropy of each token's distribution, in nats.
        values_BT: the critic's value at each token.
        scores_B: the reward head's scalar, without unit.
        token_scores_BT: the reward head's scalar at each token, without unit.
        collision_BT: log sum_v p_v^2, in nats, without gradient.
        divergence_BT: generalised Jensen-Shannon divergence to the teacher, in nats.
        embeddings_BLD: input embeddings of prompt and completion; all other fields depend on them.
    """

    logps_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    values_BT: Tensor | None = None
    scores_B: Tensor | None = None
    token_scores_BT: Tensor | None = None
    collision_BT: Tensor | None = None
    divergence_BT: Tensor | None = None
    embeddings_BLD: Tensor | None = None
    aux_loss: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric as (sum, weight): added over micro-batches and ranks, it gives the exact mean."""

    total: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """An objective's result on one micro-batch.

    Args:
        value: a weighted SUM to back-propagate.
        metrics: reported as total / weight.
        state: tensors that the next step's batch gets as its `state`.
    """

    value: Tensor
    metrics: dict[str, Mean] = field(default_factory=dict)
    state: dict[str, Tensor] | None = None


Metrics = dict[str, float]


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass: its fields ARE its configuration."""

    @property
    def needs(self) -> Needs:
        """The models, annotations and outputs that the learner must provide."""
        ...

    def prepare(self, batch: Batch) -> Batch:
        """Puts credit and weights on the whole batch, without gradient.

        If a batch is reused for several optimizer steps, weights are recomputed for each mini-batch;
        advantages are not.
        """
        ...

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The weighted sum over the rows of a micro-batch, and its metrics."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """An objective with settings that come from the data, such as class weights."""

    def fit(self, groups: Sequence[Group]) -> tuple[Objective, str]:
        """The objective with settings from these groups, and one line that shows them to a person."""
        ...


Unit = Literal["row", "group", "batch"]

Values = Callable[[Batch], Tensor]
"""Values of a batch whose moments are taken."""


def moments_of(batch: Batch, name: str, values: Tensor) -> Tensor:
    """Count, mean and variance (by count - 1) of values, [3], float64: over all ranks, where they are known.

    Args:
        batch: may bring along what all ranks' rows gave.
        name: under which `Needs.moments` declares them.
        values: of this batch alone.
    """
    known = batch.extra.get(f"moments/{name}")
    return moments(values) if known is None else known


def moments(values: Tensor) -> Tensor:
    """Count, mean and variance (by count - 1; 0 for less than two) of values but NaN, [3], float64."""
    wide = values[~values.isnan()].double()
    count = wide.new_tensor(float(wide.numel()))
    mean = wide.mean() if wide.numel() else wide.new_zeros(())
    return torch.stack([count, mean, wide.var() if wide.numel() > 1 else wide.new_zeros(())])


def joint_moments(parts: Sequence[Tensor]) -> Tensor:
    """Moments of several sets of values as one, [3] (Chan et al. 1979).

    Sums of squares would lose the digits of a small variance; equal values keep their mean exactly.
    """
    count, mean, squares = parts[0].new_zeros(3).unbind()
    for n, centre, variance in (part.unbind() for part in parts):
        if n == 0:
            continue
        gap, total = centre - mean, count + n
        mean = mean + gap * (n / total)
        squares = squares + variance * (n - 1) + gap.square() * (count * n / total)
        count = total
    return torch.stack([count, mean, squares / (count - 1).clamp_min(1)])
