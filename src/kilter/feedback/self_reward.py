"""The policy as its own judge: the probability that it answers "Yes" to a question about the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch

from kilter.data.collate import collate
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.registry import feedback_sources
from kilter.seams import FeedbackSource, Wants
from kilter.types import Feedback, Group, Prompt

QUESTION = (
    "Review the reply below.\n\nRequest:\n{prompt}\n\nReply:\n{answer}\n\n"
    "Is the reply correct, helpful and to the point? Answer Yes or No."
)

FIELD = re.compile(r"\{(prompt|answer)\}")


@feedback_sources.register("self_reward")
class SelfReward(FeedbackSource):
    """score = P(Yes) / (P(Yes) + P(No)) under the present policy.

    Paper: Yuan et al. 2024, "Self-rewarding language models", with log-probs in place of a written grade.
    question: text with {prompt} and {answer}.
    """

    wants = Wants(policy=True)

    def __init__(self, context: Context, question: str = QUESTION) -> None:
        if "{answer}" not in question:
            raise UserError(
                "feedback.self_reward.question",
                question[:60],
                "does not contain {answer}",
                "write {prompt} and {answer} where they belong",
            )
        self.scorer, self.encoder = context.policy
        self.question = question

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        questions = []
        for g in groups:
            asked = "\n".join(m["content"] for m in g.prompt.messages) or g.prompt.text or ""
            for c in g.completions:
                text = FIELD.sub(lambda m: {"prompt": asked, "answer": c.text}[m[1]], self.question)
                questions.append(Prompt(messages=({"role": "user", "content": text},)))
        training = self.scorer.training
        self.scorer.eval()
        scores: list[float | None] = []
        for first in range(0, len(questions), 16):
            asked_now = [self.encoder.beginnings(q, ("Yes", "No")) for q in questions[first : first + 16]]
            encoded = [self.encoder.fitted(e) for e in asked_now]
            kept = [e for e in encoded if e is not None]
            values: Iterator[float] = iter(())
            if kept:
                batch = collate(kept)
                first_token = self.scorer(batch).logps_BT[:, 0].view(-1, 2)
                values = iter(first_token.softmax(-1)[:, 0].tolist())
            scores += [None if e is None else next(values) for e in encoded]
        self.scorer.train(training)
        found = iter(scores)
        return [[Feedback(next(found), "self", source="self_reward") for _ in g.completions] for g in groups]
