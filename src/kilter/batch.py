"""What the loop computes with: a batch of one optimizer step, what an objective needs and what it returns.

Shape suffixes: B rows (completions), T completion tokens, N groups (prompts), K completions of a group.
`T` never counts prompt tokens: objectives do not see prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from kilter.types import Group, Shape


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective asks of the learner; only what is named here is computed.

    Args:
        shape: of its data; "rollouts" are completions that the policy sampled, with scores.
        unit: rows that must stay together when the batch is split.
        models: that train: "policy" (token log-probs), "critic" (a value per token) or "reward" (a scalar per
            completion).
        annotations: numbers that are put on a batch before the loss, by the names of training/annotate.py:
            "ref_logps",
            "old_logps", "old_values", "mismatched_kl", ...
        outputs: fields of Outputs to compute; "divergence" needs a teacher.
        learning_rate: what a recipe without one gets.
        inner_epochs: passes over one batch of rollouts.
        rows: how the data's groups become rows, by the names of data/arrange.py.
        labels: of judged answers, those that are learned from.
        opponent: whom the second completion of a pair comes from; None: the policy.
        siblings: completions of one prompt that are compared with each other, at least. A method that lets
            its user
            choose more than two calls the setting `k`.
        kl_coefficient: where a controller of the KL begins; None: there is no coefficient to move.
        settings: a number for what takes one, by its name: the output "divergence", the opponent "mixture".
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

    @property
    def teacher(self) -> bool:
        """Whether a second model is learned from."""
        return "divergence" in self.outputs


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one optimizer step (or of one micro-batch of it); a row is a completion.

    tokens_BT int64, mask_BT and every *_BT float32; group_B maps a row to its group in [0, N). Completions of
    a group are adjacent, best first where scores are known. `n_*_total` are the counts over the WHOLE
    optimizer step and all ranks, the only denominators an objective may use.
    `prompts_N` is for the learner's forward only.

    For rollouts: truncated_B is 1 where the length limit ended the completion (no EOS). active_N, written by
    `prepare`, is
    False on groups whose gradient is exactly zero: they are counted and not forwarded. state is what the
    objective carried over from the step before.

    `extra` holds everything else by name: annotations that few methods ask for, what a hook gives, what the
    parts of a mixture wrote. The end of a name says how it is cut with the batch: *_BT, *_B and *_N by row
    and group, all else stays whole; *_total is a count over the optimizer step, as above. Always there:
    n_first_rows_total and n_first_tokens_total, which count what `first_B` picks, and its trained tokens.
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
        """B."""
        return self.tokens_BT.shape[0]

    def groups(self) -> int:
        """N."""
        return len(self.prompts_N)

    def select_groups(self, index: Sequence[int]) -> Batch:
        """The sub-batch of these groups in this order, re-trimmed to its own longest completion."""
        keep = torch.cat([(self.group_B == i).nonzero()[:, 0] for i in index])
        width = int(self.length_B[keep].max())
        renumber = {old: new for new, old in enumerate(index)}
        groups_N = torch.tensor(list(index))

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
        values["group_B"] = torch.tensor([renumber[int(g)] for g in values["group_B"]])
        values["prompts_N"] = tuple(self.prompts_N[i] for i in index)
        return Batch(**values)

    def rows_where(self, keep_B: Tensor, **changes: Any) -> Batch:
        """Only these rows, with `changes` on top; groups and width as they were."""

        def cut(name: str, value: Any) -> Any:
            return value[keep_B] if isinstance(value, Tensor) and name.endswith(("_BT", "_B")) else value

        values: dict[str, Any] = {f.name: cut(f.name, getattr(self, f.name)) for f in fields(self)}
        values["extra"] = {name: cut(name, value) for name, value in self.extra.items()}
        return Batch(**values | changes)

    def first_B(self) -> Tensor:  # noqa: N802
        """[B] bool: what there is to imitate, the first (best) completion of each group, but no single answer
        that was judged bad.
        """
        first = torch.ones(self.rows(), dtype=torch.bool)
        first[1:] = self.group_B[1:] != self.group_B[:-1]
        alone = first.clone()
        alone[:-1] &= first[1:]
        return first & ~(alone & (self.score_B <= 0))

    def counted(self) -> Batch:
        """The same rows with `n_*_total` counted over them: what one rank adds to a mini-batch's
        denominators.
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
        """A copy with these in `extra`."""
        return replace(self, extra={**self.extra, **values})


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the forward computed, all float32: log-probs in nats, entropy in nats, scores without unit.

    collision_BT: log sum_v p_v^2 (nats, no gradient). divergence_BT: generalised Jensen-Shannon divergence to
    the teacher (nats). embeddings_BLD: the input embeddings of prompt and completion, on the graph of
    everything else.
    """

    logps_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    values_BT: Tensor | None = None
    scores_B: Tensor | None = None
    token_scores_BT: Tensor | None = None
    collision_BT: Tensor | None = None
    divergence_BT: Tensor | None = None
    embeddings_BLD: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric as (sum, weight), so that micro-batches and ranks add up to the exact mean."""

    total: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """`value`: a weighted SUM to back-propagate.

    `metrics`: reported as total / weight. `state`: what the next step's batch is given.
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
        """What this objective asks of the learner."""
        ...

    def prepare(self, batch: Batch) -> Batch:
        """No grad, on the whole batch: credit assignment and weights.

        Where a batch is used for several steps the weights, not the credit, are taken again for each part.
        """
        ...

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """A weighted sum over the rows of a micro-batch, plus metrics."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """An objective with settings that come from the data, such as class weights."""

    def fit(self, groups: Sequence[Group]) -> tuple[Objective, str]:
        """The objective with these settings, and a line for a person that shows them."""
        ...


Unit = Literal["row", "group", "batch"]
