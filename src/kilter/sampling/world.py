"""A world's own critic as a sampler: what it says follows from the world's rules, and no model is opened.

It reads what a question is about from its metadata, so it answers questions of critics, revisers and judges
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kilter.data.worlds.registry import DEFAULT, PREFIX, Critic, critic_of
from kilter.errors import UserError
from kilter.sampling.choices import choice
from kilter.sampling.registry import samplers
from kilter.sampling.scripted import ScriptedSampler, asked
from kilter.types import ABOUT, Choice, Prompt, Request, Sample

UNKNOWN = "the world's critic knows nothing of this prompt"


@dataclass(frozen=True, slots=True)
class Faults:
    """How a critic errs when it compares.

    Args:
        error: share of verdicts, 0 to 1, that are turned around.
        first: share of verdicts, 0 to 1, that take the answer shown first.
        sure: probability, 1/2 to 1, that a certain verdict has.
        seed: which verdicts. The same question has the same verdict.
    """

    error: float = 0.0
    first: float = 0.0
    sure: float = 1.0
    seed: int = 0

    def applied(self, p: float, question: str) -> float:
        """The probability that the answer shown first is better, as the critic says it."""
        digest = hashlib.sha256(f"{self.seed}\0{question}".encode("utf-8", "surrogatepass")).digest()
        chance = int.from_bytes(digest[:8], "big") / 2**64
        said = 1.0 if chance < self.first else 1 - p if chance < self.first + self.error else p
        return 0.5 + (said - 0.5) * (2 * self.sure - 1)


class WorldSampler(ScriptedSampler):
    """A scripted critic that also compares: the first option is the answer that is shown first."""

    def __init__(self, critic: Critic, faults: Faults | None = None) -> None:
        self.critic, self.faults = critic, faults or Faults()
        super().__init__(self._reply)
        self.facts = replace(ScriptedSampler.facts, needs=critic.needs)

    def _reply(self, prompt: Prompt, index: int) -> str | None:
        about = prompt.metadata.get(ABOUT)
        # Other questions, such as a customer's own, are none that a critic is asked.
        if about is None:
            return None
        return self.critic.reply(prompt, about["step"], about["principle"], about["answer"])

    def _sample(self, request: Request, index: int) -> Sample:
        if any(name not in request.prompt.metadata for name in self.critic.needs):
            return Sample(request, index, None, UNKNOWN)
        return super()._sample(request, index)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """How probable it is that the answer shown first, or else the second, is better."""
        return [self._compare(p, options) for p in prompts]

    def _compare(self, prompt: Prompt, options: Sequence[str]) -> Choice:
        about = prompt.metadata.get(ABOUT, {})
        # A grade or a yes is not what the critic gives.
        if about.get("step") != "compare" or len(options) != 2:
            return Choice(tuple(options), problem=UNKNOWN)
        first, second = about["shown"]
        p = self.critic.prefers(prompt, first, second, about.get("principle", ""))
        if p is None:
            return Choice(tuple(options), problem=UNKNOWN)
        said = self.faults.applied(p, "\0".join((asked(prompt), first, second)))
        return choice(options, (said, 1 - said))


@samplers.register("world")
def open_world(
    world: str = DEFAULT,
    critic: str = "constitution",
    error: float = 0.0,
    first: float = 0.0,
    sure: float = 1.0,
    seed: int = 0,
) -> WorldSampler:
    """Opens a scripted critic.

    Args:
        world: name of the world, as behind `builtin:`.
        critic: name of the critic there.
        error: share of its verdicts that are turned around.
        first: share of its verdicts that take the answer shown first.
        sure: probability that a certain verdict has, 1/2 to 1.
        seed: which verdicts are wrong.

    Raises:
        UserError: the world or the critic is unknown, or a share is impossible.
    """
    found = critic_of(f"{PREFIX}{world}", critic, "sampler.options")
    for name, value in (("error", error), ("first", first), ("error + first", error + first)):
        if not 0 <= value <= 1:
            raise UserError(f"sampler.options.{name}", value, "is not a share", "give a number from 0 to 1")
    if not 0.5 <= sure <= 1:
        raise UserError("sampler.options.sure", sure, "is not between 0.5 and 1", "use 0.9, or leave it out")
    return WorldSampler(found, Faults(error, first, sure, seed))
