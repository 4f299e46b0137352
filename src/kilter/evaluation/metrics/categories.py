"""The parts that prompts are reported by."""

from collections.abc import Sequence

from kilter.evaluation.suites import TASK
from kilter.types import Prompt


def categories(prompt: Prompt) -> Sequence[str]:
    """The category of a suite's prompt, and how it pushes back; prompts of the user's have no parts."""
    if "suite" not in prompt.metadata:
        return ()
    named = (prompt.metadata.get(key) for key in ("category", "push"))
    return [str(name) for name in named if name]


def task(prompt: Prompt) -> Sequence[str]:
    """The task suite of a prompt, where an evaluation has several, and its category."""
    own = prompt.metadata.get(TASK)
    return [*([str(own)] if own else []), *categories(prompt)]
