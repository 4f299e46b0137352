"""Ways to answer the prompts of a step: the policy alone, beside an opponent, or beside its greedy answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kilter.sampling.collect import Underway, begin, finish, requests
from kilter.seams import FeedbackSource, Sampler
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

Arrived = Callable[[Sequence[Group]], None]
"""Takes unscored groups as their answers end; their scores will be asked for."""

NOBODY_WAITS: Arrived = lambda groups: None

OPPONENT_SEED = 13
"""Added to the seed of an opponent, so that it does not draw what the policy draws."""


@dataclass(frozen=True)
class Sampled:
    """Unscored groups, and one line per completion that could not be made: it has no place in its group.

    `places`: the number of each group's prompt among those asked, for a prompt without answers has no group.
    """

    groups: list[Group]
    problems: list[str]
    places: list[int]


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts whose answers are under way: the policy's, and those of whoever answers beside it.

    since: when they were asked, by time.perf_counter.
    """

    prompts: Sequence[Prompt]
    mine: Underway
    other: Underway | None = None
    since: float = field(default_factory=time.perf_counter)


class Answers(Protocol):
    """Turns prompts into unscored groups. `opposed`: the second answer of a group is not the policy's."""

    opposed: bool

    def begin(self, prompts: Sequence[Prompt], params: SamplingParams) -> Asked:
        """Sends the prompts off, where the samplers can answer while their caller goes on."""
        ...

    def finish(self, asked: Asked, arrived: Arrived = NOBODY_WAITS) -> Sampled:
        """One group per prompt that got an answer, in order. `arrived` is told of each as its answers end."""
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

    def begin(self, prompts: Sequence[Prompt], params: SamplingParams) -> Asked:
        """Asks for `samples` answers to each prompt."""
        return Asked(prompts, begin(self.sampler, requests(prompts, self.samples, params)))

    def finish(self, asked: Asked, arrived: Arrived = NOBODY_WAITS) -> Sampled:
        """All answers that could be made."""
        prompts = asked.prompts
        found = finish(asked.mine, arrived=lambda n, made: arrived(unscored([prompts[n]], [made])))
        return _sampled(asked.prompts, found.made, found.problems)

    def usable(self, group: Group) -> bool:
        """Always: the answers are compared with each other, if at all."""
        return True

    @property
    def samplers(self) -> Sequence[Sampler]:
        """The policy's sampler alone."""
        return (self.sampler,)


@dataclass
class OpposedAnswers:
    """One answer of the policy and one of an opponent: the reference, or a mixture of both."""

    sampler: Sampler
    opponent: Sampler
    opposed: bool = True

    def begin(self, prompts: Sequence[Prompt], params: SamplingParams) -> Asked:
        """Asks both."""
        other = replace(params, seed=params.seed + OPPONENT_SEED)
        mine = begin(self.sampler, requests(prompts, 1, params))
        return Asked(prompts, mine, begin(self.opponent, requests(prompts, 1, other)))

    def finish(self, asked: Asked, arrived: Arrived = NOBODY_WAITS) -> Sampled:
        """The policy's answer first. A pair needs both, and nobody is told before."""
        assert asked.other is not None, "the opponent was not asked"
        prompts, mine = asked.prompts, finish(asked.mine)
        theirs = finish(asked.other.knowing(mine.prompt_ids))
        # A prompt with one answer alone has nothing to compare, and is left out.
        pairs = [[*a, *b] if a and b else [] for a, b in zip(mine.made, theirs.made, strict=True)]
        return _sampled(prompts, pairs, [*mine.problems, *theirs.problems])

    def usable(self, group: Group) -> bool:
        """A pair needs both scores."""
        return all(f.score is not None for f in group.feedback)

    @property
    def samplers(self) -> Sequence[Sampler]:
        """Both: a mixture moves with the policy."""
        return (self.sampler, self.opponent)


@dataclass
class GreedyBaseline:
    """Answers of the policy, with the score of its greedy answer as baseline in the prompt's metadata."""

    sampler: Sampler
    samples: int
    feedback: FeedbackSource
    opposed: bool = False

    def begin(self, prompts: Sequence[Prompt], params: SamplingParams) -> Asked:
        """Asks for the answers that train, and for the greedy one."""
        best = replace(params, temperature=0.0)
        mine = begin(self.sampler, requests(prompts, self.samples, params))
        return Asked(prompts, mine, begin(self.sampler, requests(prompts, 1, best)))

    def finish(self, asked: Asked, arrived: Arrived = NOBODY_WAITS) -> Sampled:
        """The greedy answer is scored at once and does not train. A prompt without one has no baseline."""
        assert asked.other is not None, "the greedy answer was not asked for"
        prompts = asked.prompts
        found = finish(asked.mine, arrived=lambda n, made: arrived(unscored([prompts[n]], [made])))
        greedy = finish(asked.other.knowing(found.prompt_ids))
        scores = iter(self.feedback(unscored(prompts, greedy.made)))
        based = []
        # The scores of the greedy answers come back in order, those that failed left out.
        for prompt, first in zip(prompts, greedy.made, strict=True):
            fact = {"greedy_score": next(scores)[0].score, "greedy": first[0].text} if first else {}
            based.append(replace(prompt, metadata={**prompt.metadata, **fact}))
        return _sampled(based, found.made, [*found.problems, *greedy.problems])

    def usable(self, group: Group) -> bool:
        """Without a score of the greedy answer there is no baseline."""
        return group.prompt.metadata.get("greedy_score") is not None

    @property
    def samplers(self) -> Sequence[Sampler]:
        """The policy's sampler alone."""
        return (self.sampler,)


def _sampled(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], problems: list[str]
) -> Sampled:
    places = [n for n, row in enumerate(answers) if row]
    return Sampled(unscored(prompts, answers), problems, places)


def unscored(prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]]) -> list[Group]:
    """Prompts with their completions, no feedback yet; those without any are left out."""
    return [
        Group(p, tuple(a), (Feedback(None),) * len(a)) for p, a in zip(prompts, answers, strict=True) if a
    ]


def own(groups: Sequence[Group], opposed: bool) -> list[Group]:
    """The policy's answers: all of them, or the first of each pair where the second is an opponent's."""
    if not opposed:
        return list(groups)
    return [replace(g, completions=g.completions[:1], feedback=g.feedback[:1]) for g in groups]
