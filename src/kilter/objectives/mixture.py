"""A weighted sum of methods on the same rows: {mix: {dpo: 1, sft: 0.1}}."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kilter.batch import Batch, Fitted, Loss, Mean, Needs, Objective, Outputs, Unit
from kilter.errors import UserError
from kilter.types import Group

WRITTEN = ("weight_BT", "group_weight_N", "advantage_BT", "return_BT", "active_N")
"""What `prepare` may write; every part keeps its own in `Batch.extra`, under its name and a slash."""

_UNITS: tuple[Unit, ...] = ("row", "group", "batch")


@dataclass(frozen=True)
class Mixture:
    """L = sum_k c_k L_k over parts (c_k, name, objective).

    A part that imitates (shape "demonstrations") sees the best completion of each group, or the answers
    judged good; a part for one label sees the answers with that label; all other parts must want the same
    shape. Metrics of a part carry its name where two parts report the same one. Paper: Liu et al. 2024 (RPO's
    DPO + SFT).
    """

    parts: tuple[tuple[float, str, Objective], ...]

    name = "mix"

    def __post_init__(self) -> None:
        shapes = {o.needs.shape for _, _, o in self.parts} - {"demonstrations"}
        if len(shapes) > 1 or "rollouts" in shapes:
            names = ", ".join(f"{n} ({o.needs.shape})" for _, n, o in self.parts)
            raise UserError(
                "method.mix",
                names,
                "wants different data",
                "mix methods of one shape (kilter methods lists it), or add sft to one",
            )
        if len({o.needs.models for _, _, o in self.parts}) > 1:
            raise UserError(
                "method.mix",
                [n for _, n, _ in self.parts],
                "trains different models",
                "mix policies with policies, reward models with reward models",
            )

        # What is measured on mismatched answers is taken out of the batch before any part sees it.
        if len({o.needs.rows for _, _, o in self.parts} - {"mismatched"}) > 1:
            raise UserError(
                "method.mix",
                [n for _, n, _ in self.parts],
                "reads pairs in two ways: one part scores answers, the other both in one row",
                "train them apart",
            )
        needs = self.needs
        if "embeddings" in needs.outputs and (
            needs.unit == "batch" or needs.outputs - {"logps", "embeddings"}
        ):
            raise UserError(
                "method.mix",
                [n for _, n, _ in self.parts],
                "cannot be computed together: wdpo needs a forward of its own",
                "mix wdpo with dpo-like methods or sft alone",
            )
        if len({o.needs.settings["divergence"] for _, _, o in self.parts if o.needs.teacher}) > 1:
            raise UserError(
                "method.mix",
                [n for _, n, _ in self.parts],
                "compares with the teacher in two ways",
                "give both parts the same beta",
            )

    @property
    def needs(self) -> Needs:
        """The union of what the parts need."""
        all_ = [o.needs for _, _, o in self.parts]
        lead = next((n for n in all_ if n.shape != "demonstrations"), all_[0])
        return replace(
            lead,
            unit=_UNITS[max(_UNITS.index(n.unit) for n in all_)]
            if lead.shape == "demonstrations"
            else max((n.unit for n in all_ if n.shape != "demonstrations"), key=_UNITS.index),
            annotations=frozenset().union(*(n.annotations for n in all_)),
            outputs=frozenset().union(*(n.outputs for n in all_)),
            rows=next((n.rows for n in all_ if n.rows != "stored"), "stored"),
            labels=frozenset().union(*(n.labels for n in all_)),
            settings={name: value for n in all_ for name, value in n.settings.items()},
            # A part that imitates has no label that could be uncertain.
            soft=all(n.soft for n in all_ if n.shape != "demonstrations"),
            metrics=self._metrics(),
        )

    def _metrics(self) -> frozenset[str]:
        """Names of the parts' metrics: a name that an earlier part has already stands behind its part's."""
        found = frozenset[str]()
        for _, name, objective in self.parts:
            found |= {_named(key, name, found) for key in objective.needs.metrics}
        return found

    def _view(self, objective: Objective, batch: Batch) -> tuple[Batch, torch.Tensor | None]:
        own, all_ = objective.needs, self.needs
        if own.shape == all_.shape and own.labels == all_.labels:
            return batch, None
        first_B, n_first_rows = batch.first_B(), batch.extra["n_first_rows_total"]
        if own.shape == "demonstrations":
            return batch.rows_where(
                first_B,
                n_tokens_total=batch.extra["n_first_tokens_total"].clamp_min(1),
                n_rows_total=n_first_rows.clamp_min(1),
            ), first_B
        bad_B = ~first_B  # single answers: what is not good is bad
        return batch.rows_where(bad_B, n_rows_total=(batch.n_rows_total - n_first_rows).clamp_min(1)), bad_B

    def fit(self, groups: Sequence[Group]) -> tuple[Mixture, str]:
        """Parts that take settings from the data do; their notes in one line."""
        parts, notes = [], []
        for weight, name, objective in self.parts:
            if isinstance(objective, Fitted):
                fitted, note = objective.fit(groups)
                parts.append((weight, name, fitted))
                notes.append(f"{name}: {note}")
            else:
                parts.append((weight, name, objective))
        return Mixture(tuple(parts)), "; ".join(notes)

    def prepare(self, batch: Batch) -> Batch:
        """Each part prepares its own view; what they write is kept apart."""
        written: dict[str, torch.Tensor] = {}
        for _, name, objective in self.parts:
            view, keep_B = self._view(objective, batch)
            done = objective.prepare(view)
            for field in WRITTEN:
                value = getattr(done, field)
                if value is not None and keep_B is not None and field.endswith("_BT"):
                    whole = torch.zeros(batch.tokens_BT.shape, dtype=value.dtype)
                    whole[keep_B, : value.shape[1]] = value
                    value = whole
                if value is not None:
                    written[f"{name}/{field}"] = value
        return batch.with_extra(**written)

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """The weighted sum, and the parts' metrics."""
        value: Any = 0.0
        metrics: dict[str, Mean] = {}
        state: dict[str, torch.Tensor] = {}
        for weight, name, objective in self.parts:
            own = {field: batch.extra.get(f"{name}/{field}") for field in WRITTEN}
            view, keep_B = self._view(objective, batch.with_(**own))
            seen = out if keep_B is None else _rows(out, keep_B, view.tokens_BT.shape[1])
            loss = objective.loss(seen, view)
            value = value + weight * loss.value
            state |= loss.state or {}
            for key, metric in loss.metrics.items():
                metrics[_named(key, name, metrics)] = metric
        return Loss(value, metrics, state or None)


def _named(key: str, part: str, taken: Container[str]) -> str:
    """A part's metric as the mixture reports it."""
    return f"{part}/{key}" if key in taken else key


def _rows(out: Outputs, keep_B: torch.Tensor, width: int) -> Outputs:
    found = {}
    for field in out.__slots__:
        value = getattr(out, field)
        found[field] = None if value is None else value[keep_B, :width] if value.ndim == 2 else value[keep_B]
    return Outputs(**found)
