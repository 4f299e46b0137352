"""events.jsonl: what was seen, since when, how sure, and what was done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kilter.artifacts import append_lines, cut_lines, read_lines

RESTART = "learner restarted"
"""What an event is called that stands for the steps after a checkpoint, and is not found again by them."""


@dataclass(frozen=True, slots=True)
class Event:
    """`since`: first step of the streak.

    `confidence`: a robust z, an interval, or "certain" for counts. `action`: what was done.
    """

    step: int
    tier: int
    level: Literal["info", "warn", "stop"]
    monitor: str
    message: str
    since: int
    confidence: str
    action: str
    value: float | None = None
    reference: float | None = None

    def line(self) -> str:
        """One line for a person."""
        return (
            f"step {self.step}: {self.message} (since step {self.since}; {self.confidence}) -> {self.action}"
        )


class EventLog:
    """Append-only; on resumption, events after the checkpoint are cut, for they will be found again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.events: list[Event] = []

    def load(self, done: int | None) -> None:
        """Keeps the events up to the checkpoint; none for a fresh run (None)."""
        if self.path is not None:
            # Steps that will be done again find their events again.
            kept = lambda row: row["monitor"] == RESTART or (done is not None and row["step"] <= done)
            cut_lines(self.path, kept)
            self.events = [Event(**row) for row in read_lines(self.path)]

    def add(self, event: Event) -> None:
        """Appends the event to memory and to the file, at once."""
        self.events.append(event)
        if self.path is not None:
            append_lines(self.path, [asdict(event)])


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of an events.jsonl; none when it is absent."""
    return list(read_lines(path))
