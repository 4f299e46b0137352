"""events.jsonl: what was seen, since when, how sure, and what was done."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kilter.data.store import trim_torn_line


@dataclass(frozen=True, slots=True)
class Event:
    """`since`: first step of the streak. `confidence`: a robust z, an interval, or "certain" for counts. `action`: what was done."""

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

    def __init__(self, path: Path | None, resume_step: int = 0) -> None:
        self.path, self.events = path, []  # type: tuple[Path | None, list[Event]]
        if path is not None and path.exists():
            trim_torn_line(path)
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= resume_step]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, path)
            self.events = [Event(**json.loads(line)) for line in kept]

    def add(self, event: Event) -> None:
        """Appends and flushes."""
        self.events.append(event)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                f.write(json.dumps(asdict(event)) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of an events.jsonl; none when it is absent."""
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []
