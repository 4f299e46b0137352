"""--dry-run: what stages would take, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from kilter.cli.app import out
from kilter.progress import clock
from kilter.screen import styled

if TYPE_CHECKING:
    from kilter.stages import StagePlan


def print_plan(stages: Sequence[StagePlan]) -> None:
    """A row for each stage, and the time of all."""
    table = Table(
        "stage", "kind", "what", "rows", "tokens", "steps", "memory", "time", box=None, pad_edge=False
    )
    total, unknown = 0.0, []
    for s in stages:
        total += s.seconds or 0
        unknown += [s.name] if s.seconds is None else []
        cells = [f"{v:,}" if v is not None else "" for v in (s.rows, s.tokens, s.steps)]
        table.add_row(
            s.name, s.kind, s.what, *cells, f"{s.memory_gb} GB" if s.memory_gb else "", clock(s.seconds)
        )
    out.print(table)
    for stage in stages:
        for line in stage.warnings:
            out.print(styled("[yellow]warn[/] {}: {}", stage.name, line), soft_wrap=True)
    # A judge's answers, or data that an earlier stage makes, cannot be timed before that stage has run.
    about, beside = ("at least", f", {', '.join(unknown)} not counted") if unknown else ("about", "")
    out.print(f"\nit takes {about} {clock(total)} on this machine{beside}; nothing was run")
