"""A world's own critic as a sampler: what it says follows from the world's rules, and no model is opened.

It reads what a question is about from its metadata, so it answers critics' and revisers' questions alone.
"""

from __future__ import annotations

from kilter.data.worlds.registry import DEFAULT, PREFIX, critic_of
from kilter.sampling.registry import samplers
from kilter.sampling.scripted import ScriptedSampler
from kilter.types import ABOUT, Prompt


@samplers.register("world")
def open_world(world: str = DEFAULT, critic: str = "constitution") -> ScriptedSampler:
    """Opens a scripted critic.

    Args:
        world: name of the world, as behind `builtin:`.
        critic: name of the critic there.

    Raises:
        UserError: the world or the critic is unknown.
    """
    found = critic_of(f"{PREFIX}{world}", critic, "sampler.options")

    def script(prompt: Prompt, index: int) -> str | None:
        about = prompt.metadata.get(ABOUT)
        # Other questions, such as a customer's own, are none that a critic is asked.
        if about is None:
            return None
        return found.reply(prompt, about["step"], about["principle"], about["answer"])

    return ScriptedSampler(script)
