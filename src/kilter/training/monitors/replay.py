"""Runs the monitors over an old run's metrics.jsonl, groups.jsonl and gold.jsonl."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from kilter.artifacts import read_json, read_lines
from kilter.data import store
from kilter.errors import UserError
from kilter.training.config import MonitorSpec
from kilter.training.monitors.events import Event, EventLog
from kilter.training.monitors.gold import Evidence, GoldHistory
from kilter.training.monitors.watch import Monitors
from kilter.training.sources.answers import own
from kilter.types import Group


def replay(folder: Path, spec: MonitorSpec | None = None, total_steps: int | None = None) -> list[Event]:
    """Events of the run in `folder` (a train stage's), under `spec` or the settings it ran with.

    Nothing is written.

    A stop is reported where it would have come; the rest of the log is still watched.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("metrics", "groups", "gold")}
    if not paths["metrics"].is_file() or not paths["groups"].is_file():
        raise UserError(
            "folder",
            str(folder),
            "holds no metrics.jsonl and groups.jsonl of an online run",
            "give the folder of a train stage, such as runs/grpo",
        )
    records = list(read_lines(paths["metrics"]))
    try:
        rollouts = {step: list(rows) for step, rows in groupby(store.read(paths["groups"]), key=_step)}
    except UserError:  # it names the file already
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "folder",
            str(paths["groups"]),
            f"holds a line that is not a group ({error})",
            "cut the file back to its whole lines",
        ) from error
    gold = list(read_lines(paths["gold"]))
    config = _config(folder)
    spec = spec or MonitorSpec.model_validate(settings(folder))
    log = EventLog(None)
    total = total_steps or config.get("total_steps") or config.get("max_steps") or len(records)
    monitors = Monitors(spec, log, GoldHistory(), total, spec.allow_truncation)
    by_step = {
        entry["step"]: Evidence(entry["values"], entry.get("answers", ()), entry.get("problems", {}))
        for entry in gold
    }
    # The first evidence is the reference of all later ones.
    if 0 in by_step:
        monitors.evidence(0, by_step[0])
    for event in _failures(folder):
        log.events.append(event)
    # In the order of the run: signal, request, evidence.
    for record in records:
        step = int(record["step"])
        monitors.update(
            step,
            {k: v for k, v in record.items() if not k.startswith(("monitor/", "gold/"))},
            # An opponent's answers were never watched.
            own(rollouts.get(step, []), bool(config.get("opponent"))),
        )
        monitors.due(step)
        if step in by_step:
            monitors.evidence(step, by_step[step])
    return sorted(log.events, key=lambda e: e.step)


def settings(folder: Path) -> dict[str, Any]:
    """The monitor settings that a run had."""
    found: dict[str, Any] = _config(folder).get("monitors") or {}
    return found


def _step(group: Group) -> int:
    return int(group.prompt.metadata.get("step", 0))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "train.json"
    return read_json(path) if path.is_file() else {}


def _failures(folder: Path) -> list[Event]:
    """Events that came from source or loss (unscored answers, NaN). A replay cannot recompute these facts."""
    from kilter.training.monitors.events import read_events

    return [
        Event(**e)
        for e in read_events(folder / "events.jsonl")
        if e["monitor"] in ("unscored completions", "no usable group", "nan")
    ]
