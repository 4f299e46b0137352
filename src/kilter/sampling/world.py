"""A world's own critic as a sampler: what it says follows from the world's rules, and no model is opened.

It reads what a question is about from its metadata, so it answers questions of critics, revisers and judges
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from kilter.data.worlds.registry import DEFAULT, PREFIX, Critic, critic_of
from kilter.sampling.choices import choice
from kilter.sampling.registry import samplers
from kilter.sampling.scripted import ScriptedSampler
from kilter.types import ABOUT, Choice, Prompt

UNKNOWN = "the world's critic knows nothing of this prompt"


class WorldSampler(ScriptedSampler):
    """A scripted critic that also compares: the first option is the answer that is shown first."""

    def __init__(self, critic: Critic) -> None:
        self.critic = critic
        super().__init__(self._reply)

    def _reply(self, prompt: Prompt, index: int) -> str | None:
        about = prompt.metadata.get(ABOUT)
        # Other questions, such as a customer's own, are none that a critic is asked.
        if about is None:
            return None
        return self.critic.reply(prompt, about["step"], about["principle"], about["answer"])

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
        return Choice(tuple(options), problem=UNKNOWN) if p is None else choice(options, (p, 1 - p))


@samplers.register("world")
def open_world(world: str = DEFAULT, critic: str = "constitution") -> WorldSampler:
    """Opens a scripted critic.

    Args:
        world: name of the world, as behind `builtin:`.
        critic: name of the critic there.

    Raises:
        UserError: the world or the critic is unknown.
    """
    return WorldSampler(critic_of(f"{PREFIX}{world}", critic, "sampler.options"))
