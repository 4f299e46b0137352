"""What is on disk of a run's rollouts, and what is said of its prompts at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from kilter.data import store
from kilter.data.encode import Encoder
from kilter.seams import Hook


class RolloutFile(Hook):
    """Rollouts of steps that will be done again are cut from groups.jsonl, with their tokens, on resumption.

    `path`: None in processes that write nothing.
    """

    name = "rollouts"

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def before_run(self, done: int | None) -> None:
        """Keeps the steps of the checkpoint."""
        # A killed run has rollouts of steps that no checkpoint knows.
        if self.path is not None:
            store.cut(self.path, lambda row: _step_of(row) <= (done or 0))


def _step_of(row: dict[str, Any]) -> int:
    return int(row["prompt"].get("metadata", {}).get("step", 0))


class CutPrompts(Hook):
    """Says at the end how many prompts were too long, and what the chat template did to them."""

    name = "cut_prompts"

    def __init__(self, encoder: Encoder, room: str, console: Console, quiet: bool) -> None:
        self.encoder, self.room, self.console, self.quiet = encoder, room, console, quiet

    def close(self, error: BaseException | None) -> None:
        """One line each, where there is something to say and the run came to its end."""
        for what in (w for w in self.encoder.counts if "chat template" in w):
            if error is None and not self.quiet:
                self.console.print(f"  prompts: {what}", soft_wrap=True)

        # Counts of what was cut alone; the encoder counts other things too.
        cut = ", ".join(f"{n} {what}" for what, n in self.encoder.counts.items() if "cut" in what)
        if cut and error is None and not self.quiet:
            self.console.print(f"  prompts: {cut} ({self.room})", soft_wrap=True)
