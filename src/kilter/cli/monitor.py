"""kilter monitor: the events of a run, and its monitors run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.app import command, commands, out
from kilter.errors import UserError
from kilter.screen import styled

monitor_app = commands(
    "monitor",
    help="What the monitors saw in a run.",
    examples=["kilter monitor show runs/reward-hacking/unguarded", "kilter monitor replay runs/old-run/grpo"],
)

COLOURS = {"stop": "bold red", "warn": "yellow", "info": "dim"}
Folder = Annotated[
    Path, typer.Argument(help="folder of an online train stage, such as runs/reward-hacking/unguarded")
]


@command("show", to=monitor_app, examples=["kilter monitor show runs/reward-hacking/unguarded"])
def show(folder: Folder) -> None:
    """Print the events that a run recorded."""
    from kilter.training.monitors.events import Event, read_events

    if not (folder / "metrics.jsonl").is_file():
        raise UserError("folder", str(folder), "holds no metrics.jsonl", "give the folder of a train stage")
    _print([Event(**e) for e in read_events(folder / "events.jsonl")])


@command(
    "replay",
    to=monitor_app,
    examples=[
        "kilter monitor replay runs/old-run/grpo",
        "kilter monitor replay runs/old-run/grpo --kl-budget 10",
    ],
)
def replay(
    folder: Folder,
    kl_budget: Annotated[
        float | None, typer.Option(help="nats per completion; three times it is a stop")
    ] = None,
    allow_truncation: Annotated[
        bool | None, typer.Option(help="answers at the length limit are no reason to stop")
    ] = None,
) -> None:
    """Run the monitors over an old run's logs: what would they have said?"""
    from pydantic import ValidationError

    from kilter.training.config import MonitorSpec
    from kilter.training.monitors.replay import replay as run
    from kilter.training.monitors.replay import settings
    from kilter.validation import as_user_error

    spec = MonitorSpec.model_validate(settings(folder))
    changes = {
        k: v for k, v in (("kl_budget", kl_budget), ("allow_truncation", allow_truncation)) if v is not None
    }
    try:
        watched = MonitorSpec.model_validate(spec.model_dump() | changes)
    except ValidationError as error:
        raise as_user_error(error, "--", MonitorSpec) from error
    _print(run(folder, watched))


def _print(events: list) -> None:  # type: ignore[type-arg]
    if not events:
        out.print("no events: every signal stayed within its limits")
    for event in events:
        line = styled(f"[{COLOURS[event.level]}]{{}}[/] {{}}", f"{event.level:<5}", event.line())
        out.print(line, soft_wrap=True)
