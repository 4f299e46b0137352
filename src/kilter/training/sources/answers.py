"""How the prompts of a step are answered: by the policy alone, beside an opponent, or beside its own greedy answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kilter.seams import FeedbackSource, Sampler
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

OPPONENT_SEED = 13
"""Added to the seed of an opponent, so that it does not draw what the policy draws."""


class Answers(Protocol):
    """Turns prompts into unscored groups. `opposed`: the second answer of a group is not the policy's."""

    opposed: bool

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        """One group per prompt, in order."""
        ...

    def usable(self, group: Group) -> bool:
        """Whether a scored group has what the method compares its answers with."""
        ...

    @property
    def samplers(self) -> Sequence[Sampler]:
        """Every sampler that takes the new weights after an update."""
        ...


@dataclass
class PolicyAnswers:
    """Several answers of the policy to each prompt."""

    sampler: Sampler
    samples: int
    opposed: bool = False

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        """`samples` answers each."""
        return unscored(prompts, self.sampler.generate(prompts, self.samples, params))

    def usable(self, group: Group) -> bool:
        """Always: the answers are compared with each other, if at all."""
        return True

    @property
    def samplers(self) -> Sequence[Sampler]:
        """The policy's."""
        return (self.sampler,)


@dataclass
class OpposedAnswers:
    """One answer of the policy and one of an opponent: the reference, or a mixture of reference and policy."""

    sampler: Sampler
    opponent: Sampler
    opposed: bool = True

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        """The policy's answer first."""
        mine = self.sampler.generate(prompts, 1, params)
        theirs = self.opponent.generate(prompts, 1, replace(params, seed=params.seed + OPPONENT_SEED))
        return unscored(prompts, [[a[0], b[0]] for a, b in zip(mine, theirs, strict=True)])

    def usable(self, group: Group) -> bool:
        """A pair needs both scores."""
        return all(f.score is not None for f in group.feedback)

    @property
    def samplers(self) -> Sequence[Sampler]:
        """Both: a mixture moves with the policy."""
        return (self.sampler, self.opponent)


@dataclass
class GreedyBaseline:
    """Answers of the policy, and the score of its greedy answer as their baseline, kept in the prompt's metadata."""

    sampler: Sampler
    samples: int
    feedback: FeedbackSource
    opposed: bool = False

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        """The greedy answer is scored at once and does not train."""
        groups = unscored(prompts, self.sampler.generate(prompts, self.samples, params))
        greedy = self.sampler.generate(prompts, 1, replace(params, temperature=0.0))
        scores = self.feedback(unscored(prompts, [a[:1] for a in greedy]))
        return [
            replace(
                g,
                prompt=replace(
                    g.prompt, metadata={**g.prompt.metadata, "greedy_score": f[0].score, "greedy": a[0].text}
                ),
            )
            for g, f, a in zip(groups, scores, greedy, strict=True)
        ]

    def usable(self, group: Group) -> bool:
        """Without a score of the greedy answer there is no baseline."""
        return group.prompt.metadata.get("greedy_score") is not None

    @property
    def samplers(self) -> Sequence[Sampler]:
        """The policy's."""
        return (self.sampler,)


def unscored(prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]]) -> list[Group]:
    """Prompts with their completions, no feedback yet."""
    return [Group(p, tuple(a), (Feedback(None),) * len(a)) for p, a in zip(prompts, answers, strict=True)]


def own(groups: Sequence[Group], opposed: bool) -> list[Group]:
    """The policy's answers: all of them, or the first of each pair where the second is an opponent's."""
    if not opposed:
        return list(groups)
    return [replace(g, completions=g.completions[:1], feedback=g.feedback[:1]) for g in groups]
