"""What suites share: prompts alone, in a fixed order, with labels in their metadata."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from kilter.data.worlds.registry import Dials, Labels
from kilter.errors import UserError
from kilter.seams import FeedbackSource
from kilter.types import Feedback, Group, Prompt, Shape


class SuiteDials(Dials):
    """The dials of a suite. `prompts` says what it asks."""

    view: Literal["auto", "prompts"] = Field("auto", description="what the prompts carry: nothing")
    n: int = Field(10_000, ge=2, description="the first n prompts; by default all of them")

    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """All prompts of the suite, twins side by side."""

    def groups(self, shape: Shape, seed: int = 0) -> list[Group]:
        """The first n prompts.

        Args:
            shape: prompts or rollouts; a suite has no answers to learn from.
            seed: is not read: the set is fixed.

        Raises:
            UserError: for another shape.
        """
        if shape not in ("prompts", "rollouts"):
            raise UserError(
                "data.path",
                shape,
                "is not what a suite holds: it asks, and has no answers.",
                "Name the suite in evaluate.data or evaluate.probes.",
            )
        return [
            Group(replace(prompt, metadata={**prompt.metadata, "suite": True}), (), ())
            for prompt in self.prompts()[: self.n]
        ]


class Unjudged(FeedbackSource):
    """A suite without right answers: metrics read its answers, and no score is given."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """Unscored."""
        nothing = Feedback(None, "gold", rationale="this suite knows no right answer")
        return [[nothing] * len(g.completions) for g in groups]


def labels(prompt: Prompt) -> Labels:
    """What a suite says of a prompt: its safety, whether it deserves help, and its category."""
    noted = prompt.metadata
    safety, comply = noted.get("safety", ""), noted.get("comply")
    category = noted.get("category")
    return Labels(safety, comply, slices=(str(category),) if category else ())


def pair(name: str, first: Prompt, second: Prompt) -> tuple[Prompt, Prompt]:
    """Two prompts as twins: each record of an evaluation brings that of the other along."""
    one, two = (
        Prompt(
            text=prompt.text,
            id=f"{name}-{side}",
            metadata={**prompt.metadata, "twins": name, "reference": side == "a"},
        )
        for side, prompt in (("a", first), ("b", second))
    )
    return one, two
