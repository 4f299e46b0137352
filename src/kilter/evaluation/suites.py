"""What an evaluation asks: held-out prompts, probes, demonstrations of other skills, held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilter.data.dataset import Dataset, prompt_key, was_learned
from kilter.errors import UserError
from kilter.types import Group, Prompt

TASK = "task"
"""In the metadata of a prompt: the task suite that it belongs to."""


@dataclass(frozen=True)
class Suite:
    """The same for every model.

    probes: prompts that count for refusals and violations alone. tax: demonstrations of other skills.
    pairs: held-out pairs, on which the reward model is tested, and policies by their log-probs.
    tasks: prompts with a known right answer; none: the prompts themselves are the tasks.
    """

    prompts: Sequence[Prompt]
    probes: Sequence[Prompt] = ()
    tax: Sequence[Group] = ()
    pairs: Sequence[Group] = ()
    tasks: Sequence[Prompt] = ()

    def found_in(self, trained: frozenset[str]) -> int:
        """How many of the prompts, probes, tasks and demonstrations were trained on, each counted once."""
        taught = (group.prompt for group in self.tax)
        asked = {prompt_key(p): p for p in (*self.prompts, *self.probes, *self.tasks, *taught)}
        return sum(was_learned(p, trained) for p in asked.values())


def unique_prompts(data: Dataset, limit: int | None) -> list[Prompt]:
    """The first `limit` held-out prompts, each once. Raises UserError where there is none."""
    seen: dict[str, Prompt] = {}
    for group in data.heldout:
        seen.setdefault(prompt_key(group.prompt), group.prompt)
    prompts = list(seen.values())[:limit]
    if not prompts:
        raise UserError(
            "data.heldout",
            data.spec.heldout,
            "leaves no prompts to evaluate on",
            "Set data.heldout above 0, or give more data.",
        )
    return prompts
