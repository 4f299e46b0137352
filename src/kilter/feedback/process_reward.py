"""Process rewards: a token classifier's P(correct) at the end of each step is that step's reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.registry import feedback_sources
from kilter.models.tokenizer import load_tokenizer
from kilter.refs import ModelRef
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.seams import FeedbackSource, RawScores, Wants
from kilter.types import Completion, Feedback, Group

AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "product": lambda v: float(torch.tensor(v).prod()),
    "mean": lambda v: sum(v) / len(v),
    "last": lambda v: v[-1],
}


class StepModel(RawScores):
    """P(correct) of each step of answers whose tokens are known.

    Args:
        folder: of a token classifier.
        separator: text that ends a step.
        aggregate: rule that makes one score of the steps.
    """

    def __init__(self, folder: Path, separator: str, aggregate: str) -> None:
        opening = OpenSpec(folder, "steps")
        encoder = open_encoder(opening)
        ready = open_model(opening, encoder)
        self.tokenizer, self.model, self.device = encoder.tokenizer, ready.model, ready.device
        self.separator, self.aggregate = separator, AGGREGATE[aggregate]

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return [[self._score(c) for c in group.completions] for group in groups]

    def _score(self, completion: Completion) -> Feedback:
        prompt, ids = completion.prompt_ids, completion.token_ids or ()
        row = torch.tensor([[*prompt, *ids]], device=self.device)
        logits = self.model(input_ids=row).logits[0, len(prompt) :]
        right = logits.softmax(-1)[:, -1].tolist()
        pieces = [self.tokenizer.decode([t]) for t in ids]
        ends = [i for i, piece in enumerate(pieces) if self.separator in piece]
        if not ends or ends[-1] != len(ids) - 1:
            ends.append(len(ids) - 1)
        steps = [0.0] * len(ids)
        for i in ends:
            steps[i] = right[i]
        score = self.aggregate([right[i] for i in ends])
        return Feedback(score, "process", tuple(steps), source="process_reward")


@feedback_sources.register("process_reward")
class ProcessReward(FeedbackSource):
    """P(correct) of each step; the score aggregates the steps.

    Feedback.steps has one number per token: the step's P(correct) on its last token, 0 elsewhere.
    model: a Hugging Face token classifier over the policy's vocabulary; the last label is "correct".
    separator: text that ends a step. aggregate: min, product, mean or last (Lightman et al. 2023; Wang
    et al. 2024, Math-Shepherd).
    """

    wants = Wants(policy=True, weights=False)

    def __init__(
        self,
        model: ModelRef,
        context: Context,
        separator: str = "\n",
        aggregate: Literal["min", "product", "mean", "last"] = "min",
    ) -> None:
        if aggregate not in AGGREGATE:
            raise UserError(
                "feedback.process_reward.aggregate",
                aggregate,
                "is not a rule of aggregation",
                f"choose one of: {', '.join(AGGREGATE)}",
            )
        folder = context.model(model)
        if context.policy[1].tokenizer.get_vocab() != load_tokenizer(folder).get_vocab():
            raise UserError(
                "feedback.process_reward.model",
                model,
                "has another vocabulary than the policy",
                "train it from the same base model",
            )
        self.encoder = context.policy[1]
        arguments = {"folder": folder, "separator": separator, "aggregate": aggregate}
        self.model = context.scores(StepModel, arguments)

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return self.model([self._as_read(g) for g in groups])

    def begin(self, groups: Sequence[Group]) -> None:
        """The model may begin."""
        self.model.begin([self._as_read(g) for g in groups])

    def _as_read(self, group: Group) -> Group:
        """The group with the tokens that train on it, so that every step finds its own."""
        encoded = self.encoder.tokens(group)
        read = zip(group.completions, encoded.completion_ids, strict=True)
        own = [replace(c, token_ids=ids, prompt_ids=encoded.prompt_ids) for c, ids in read]
        return replace(group, completions=tuple(own))
