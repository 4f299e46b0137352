"""A model of pairs as a feedback source: an answer's score is the share of other answers that it beats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import torch

from kilter.data.arrange import in_one_row
from kilter.data.collate import collate
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.registry import feedback_sources
from kilter.models.load import reads_pairs
from kilter.models.microbatch import split
from kilter.refs import ModelRef
from kilter.roles.open import OpenSpec, open_model
from kilter.seams import FeedbackSource, RawScores, Wants
from kilter.types import Completion, Encoded, Feedback, Group


class PairModel(RawScores):
    """P(an answer beats another one), averaged over the others of its group."""

    def __init__(self, folder: Path, max_length: int, template: str) -> None:
        opening = OpenSpec(folder, "reward", template=template, max_length=max_length, long_rows="cut")
        ready = open_model(opening)
        self.encoder, self.scorer = ready.encoder, ready.scorer

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return [self._group(g) for g in groups]

    def _group(self, group: Group) -> list[Feedback]:
        count = len(group.completions)
        plain = Group(
            group.prompt,
            tuple(Completion(c.text or " ", turns=c.turns) for c in group.completions),
            group.feedback,
        )
        encoded = self.encoder.encode(plain) if count > 1 else None
        if encoded is None:
            return [
                Feedback(None, "preference", source="preference_model", rationale="needs two answers")
            ] * count
        orders = list(permutations(range(count), 2))
        rows = [in_one_row(encoded, a, b) for a, b in orders]
        empty = (Feedback(None),) * len(rows)
        wide = Encoded(
            Group(group.prompt, (Completion(""),) * len(rows), empty),
            encoded.prompt_ids,
            tuple(r[0] for r in rows),
            tuple(r[1] for r in rows),
        )
        batch = collate([wide])
        batch = batch.with_(score_B=torch.arange(batch.rows()))
        score: dict[tuple[int, int], float] = {}
        for part in split(batch, 2048, self.scorer.shared):
            found = self.scorer(part, frozenset({"scores"})).scores_B.tolist()
            score |= {orders[int(i)]: v for i, v in zip(part.score_B, found, strict=True)}
        if not all(math.isfinite(v) for v in score.values()):
            return [
                Feedback(None, "preference", source="preference_model", rationale="a score is not finite")
            ] * count
        wins = [
            statistics.fmean(
                1 / (1 + math.exp(min(80.0, score[b, a] - score[a, b]))) for b in range(count) if b != a
            )
            for a in range(count)
        ]
        return [Feedback(w, "preference", source="preference_model") for w in wins]


@feedback_sources.register("preference_model")
class PreferenceModel(FeedbackSource):
    """The mean over the group's other answers y' of P(y beats y') = sigmoid(s(y, y') - s(y', y)).

    model: a stage or folder trained with pairwise_preference. Needs two answers or more; a lone one is
    unscored. n answers cost n (n - 1) rows.
    """

    wants = Wants(siblings=True)

    def __init__(self, model: ModelRef, context: Context) -> None:
        folder = context.model(model)
        if not reads_pairs(folder):
            raise UserError(
                "feedback.preference_model.model",
                model,
                "scores single answers",
                "use reward_model, or train one with method pairwise_preference",
            )
        shared = {"max_length": context.max_length, "template": context.template}
        self.model = context.scores(PairModel, {"folder": folder, **shared})

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return self.model(groups)

    def begin(self, groups: Sequence[Group]) -> None:
        """The model may begin."""
        self.model.begin(groups)
