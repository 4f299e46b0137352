"""The parts that prompts are reported by."""

from collections.abc import Sequence

from kilter.types import Prompt


def categories(prompt: Prompt) -> Sequence[str]:
    """The category of a suite's prompt, and how it pushes back; prompts of the user's have no parts."""
    if "suite" not in prompt.metadata:
        return ()
    named = (prompt.metadata.get(key) for key in ("category", "push"))
    return [str(name) for name in named if name]
