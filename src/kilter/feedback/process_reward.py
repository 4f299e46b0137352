"""Process rewards: a token classifier's P(correct) at the end of each step is that step's reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.registry import feedback_sources
from kilter.refs import ModelRef
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.seams import FeedbackSource, Wants
from kilter.types import Feedback, Group

AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "product": lambda v: float(torch.tensor(v).prod()),
    "mean": lambda v: sum(v) / len(v),
    "last": lambda v: v[-1],
}


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
        opening = OpenSpec(context.model(model), "steps")
        self.tokenizer = open_encoder(opening).tokenizer
        if context.policy[1].tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise UserError(
                "feedback.process_reward.model",
                model,
                "has another vocabulary than the policy",
                "train it from the same base model",
            )
        self.encoder = context.policy[1]
        ready = open_model(opening, self.encoder)
        self.model, self.device = ready.model, ready.device
        self.separator, self.aggregate = separator, aggregate

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        # The tokens of a group are those that train on it, so that every step finds its own.
        encoded = [self.encoder.tokens(g) for g in groups]
        return [[self._score(e.prompt_ids, ids) for ids in e.completion_ids] for e in encoded]

    def _score(self, prompt: tuple[int, ...], ids: tuple[int, ...]) -> Feedback:
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
        return Feedback(
            AGGREGATE[self.aggregate]([right[i] for i in ends]),
            "process",
            tuple(steps),
            source="process_reward",
        )
