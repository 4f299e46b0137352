"""Samples that have ended before the others of their prompt: on disk, so that a kill does not cost them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from kilter.artifacts import append_lines, remove
from kilter.data import store
from kilter.data.dataset import prompt_key
from kilter.types import Completion, Feedback, Group, Prompt

SAMPLES = "samples.jsonl"
"""In the folder of a stage, as long as it is under way."""


class Samples:
    """The samples of prompts of which others are still to come, in a file, so that a kill does not cost them.

    Args:
        path: of the file.
        there: keys of the prompts that have their row: a killed run may have left samples of them.
    """

    def __init__(self, path: Path, there: Collection[str] = ()) -> None:
        self.path = path
        self._there: dict[str, dict[int, Completion]] = {}
        for group in store.read(path):
            key, number = group.prompt.metadata["key"], group.prompt.metadata["sample"]
            if key not in there:
                self._there.setdefault(key, {})[number] = group.completions[0]

    def of(self, prompt: Prompt) -> dict[int, Completion]:
        """Those of a prompt that an earlier run has made, by their number."""
        return dict(self._there.get(prompt_key(prompt), {}))

    def count(self, prompts: Sequence[Prompt]) -> int:
        """How many of these prompts' samples an earlier run has made."""
        return sum(len(self.of(prompt)) for prompt in prompts)

    def add(self, prompt: Prompt, number: int, answer: Completion) -> None:
        """Appends one. Nobody waits for the disk each time, so that a power cut may take it back."""
        about = Prompt(metadata={"key": prompt_key(prompt), "sample": number})
        append_lines(self.path, [store.to_json(Group(about, (answer,), (Feedback(None),)))], escape=False)

    def end(self, prompts: Sequence[Prompt]) -> None:
        """Forgets those of prompts that have their row."""
        for prompt in prompts:
            self._there.pop(prompt_key(prompt), None)
        if not self._there:
            remove(self.path)
