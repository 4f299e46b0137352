"""A run that begins anew by itself, because a rank is gone, or a role that nobody can replace."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kilter.screen import Screen
from kilter.training.checkpoint import Checkpoints
from kilter.training.monitors.events import RESTART, Event, EventLog


def note(out: Path, name: str, save_every: int | Literal["auto"], cause: str) -> None:
    """Says that a run begins anew, and from where, to whoever watches and to events.jsonl.

    Args:
        out: folder of the stage.
        name: of the stage.
        save_every: steps between two checkpoints.
        cause: who was lost, and how.
    """
    found = Checkpoints(out / "checkpoints", save_every).find()
    step = 0 if found is None else int(found[1]["step"])
    where = f"resumed after step {step}" if step else "begun anew"
    line = f"{RESTART}: {cause}"
    # Steps that will be done again find their events again, behind this one.
    log = EventLog(out / "events.jsonl")
    log.load(step or None)
    log.add(Event(step, 1, "warn", RESTART, line, step, "certain", f"{where}; the run goes on"))
    Screen(stderr=True).print(f"{name}: {line}; {where}", soft_wrap=True)
