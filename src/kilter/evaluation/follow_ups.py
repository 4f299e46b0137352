"""The second turn of an evaluation: what a user says after a model's first answer, and what it replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kilter.types import Completion, Message, Prompt

Replies = list[Mapping[str, Completion]]
"""[prompt]: name of the follow-up -> reply"""


def second_turns(prompt: Prompt, answer: str, default: Mapping[str, str]) -> dict[str, Prompt]:
    """The prompts that go on after an answer, by the name of the follow-up.

    A prompt brings its own in metadata["follow_ups"]. After an empty answer there is nothing to go on from.

    Args:
        prompt: what was asked.
        answer: what the model said.
        default: follow-ups of prompts that bring none.
    """
    own: Any = prompt.metadata.get("follow_ups")
    said = own if isinstance(own, Mapping) else default
    if not answer.strip():
        return {}
    before = prompt.messages or (Message(role="user", content=prompt.text or ""),)
    return {
        str(name): replace(
            prompt,
            text=None,
            messages=(
                *before,
                Message(role="assistant", content=answer),
                Message(role="user", content=str(text)),
            ),
            id=f"{prompt.id}-{name}" if prompt.id else "",
        )
        for name, text in said.items()
    }
