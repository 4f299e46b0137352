"""Reward models as a feedback source: one model's score or an ensemble's, on a scale of its own.

What needs torch is imported where a source is made: recipes are read, and clusters planned, without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.registry import feedback_sources
from kilter.refs import ModelRef
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group

REFERENCE_ANSWERS = 64
"""Answers of the training data on which a reward is normalised."""
MIN_ANSWERS = 8
"""Fewer than these in the data, and the starting policy's answers serve instead."""

Scores = list[list[float | None]]
"""[group][completion], None where there is no finite score."""


def _first_answers(groups: Sequence[Group]) -> list[Group]:
    """Groups with answers, up to REFERENCE_ANSWERS answers; none if they are too few to tell a deviation."""
    found: list[Group] = []
    answers = 0
    for group in groups:
        if group.completions and answers < REFERENCE_ANSWERS:
            found.append(group)
            answers += len(group.completions)
    return found if answers >= MIN_ANSWERS else []


def _scale(rows: Scores) -> tuple[float, float]:
    """(mean, deviation) of all finite scores."""
    values = [v for row in rows for v in row if v is not None]
    spread = statistics.pstdev(values) if len(values) > 1 else 1.0
    return (statistics.fmean(values) if values else 0.0, spread if spread > 1e-6 else 1.0)


@feedback_sources.register("reward_model")
class RewardFeedback(FeedbackSource):
    """The reward of one model or of an ensemble, for training.

    model: a stage, a folder or a Hub id, or a list of them. combine: mean, or min (pessimistic; Coste et al.
    2024). normalize: shift and scale to mean 0, deviation 1 on the answers of the training data (Stiennon et
    al. 2020), at most REFERENCE_ANSWERS of them; where the data has prompts only, on the first answers
    scored, which are the starting policy's. Kept on resumption. clip: rewards beyond this many deviations
    count as it.
    """

    def __init__(
        self,
        model: ModelRef | list[ModelRef],
        context: Context,
        combine: Literal["mean", "min"] = "mean",
        normalize: bool = True,
        clip: float | None = 5.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        from kilter.feedback.classifier import RewardModel, require_single
        from kilter.models.tokenizer import load_tokenizer

        if combine not in ("mean", "min"):
            raise UserError(
                "feedback.reward_model.combine", combine, "is not a rule of combination", "use mean or min"
            )
        names = [model] if isinstance(model, str) else list(model)
        if not names:
            raise UserError(
                "feedback.reward_model.model",
                model,
                "names no model",
                "give a stage, a folder or a Hub id, or a list of them",
            )
        folders = [context.model(n) for n in names]
        shared = {"max_length": context.max_length, "template": context.template, "amp": dtype == "bfloat16"}
        # A model elsewhere could only refuse once it is there.
        for folder in folders:
            require_single(folder)
        self.members = [context.scores(RewardModel, {"folder": folder, **shared}) for folder in folders]
        self.same = context.policy is not None and all(
            load_tokenizer(folder).get_vocab() == context.policy[1].tokenizer.get_vocab()
            for folder in folders
        )
        self.combine, self.normalize, self.clip = combine, normalize, clip
        self.known, self.gather = _first_answers(context.known), context.gather
        self.scales: list[tuple[float, float]] | None = None
        self.disagreement: float | None = None

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        raw = self._raw(groups)
        if self.normalize and self.scales is None:
            measured = self._raw(self.known) if self.known else self._everywhere(raw)
            # A step without a finite score on any process says nothing of the scale.
            if any(value is not None for rows in measured for row in rows for value in row):
                self.scales = [_scale(rows) for rows in measured]
        spreads: list[float] = []
        out = [
            [self._combine([rows[g][i] for rows in raw], spreads) for i in range(len(group.completions))]
            for g, group in enumerate(groups)
        ]
        self.disagreement = statistics.fmean(spreads) if len(self.members) > 1 and spreads else None
        return out

    def _raw(self, groups: Sequence[Group]) -> list[Scores]:
        """Raw scores of all members, indexed [member][group][completion]."""
        read = self._as_read(groups)
        return [[[f.score for f in row] for row in member(read)] for member in self.members]

    def _as_read(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The sampled tokens where they are the models' own; another tokenizer reads the text."""
        if self.same:
            return groups
        return [
            replace(g, completions=tuple(Completion(c.text or " ") for c in g.completions)) for g in groups
        ]

    def begin(self, groups: Sequence[Group]) -> None:
        """Every member may begin."""
        for member in self.members:
            member.begin(self._as_read(groups))

    def _everywhere(self, raw: list[Scores]) -> list[Scores]:
        """The scores of all ranks, so that one scale holds for all of them."""
        return [[row for rows in member for row in rows] for member in zip(*self.gather(raw), strict=True)]

    def _combine(self, values: Sequence[float | None], spreads: list[float]) -> Feedback:
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return Feedback(
                None, "reward", source="reward_model", rationale="the reward model gave no finite score"
            )
        if self.scales is not None:
            known = [(v - mean) / spread for v, (mean, spread) in zip(known, self.scales, strict=True)]
        if self.clip is not None:
            known = [max(-self.clip, min(self.clip, v)) for v in known]
        spreads.append(statistics.pstdev(known))
        return Feedback(
            min(known) if self.combine == "min" else statistics.fmean(known), "reward", source="reward_model"
        )

    def scale(self) -> tuple[float, float] | None:
        """The first member's (mean, deviation); None until they are measured."""
        if self.scales:
            return self.scales[0]
        return None if self.normalize else (0.0, 1.0)

    def state(self) -> dict[str, Any]:
        """The (mean, deviation) of every member."""
        return {"scales": self.scales}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.scales = state["scales"]
