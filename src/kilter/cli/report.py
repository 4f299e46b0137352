"""kilter report: the page of a run, or of two runs side by side."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.app import command, out
from kilter.errors import UserError
from kilter.screen import styled


@command(
    "report",
    examples=[
        "kilter report runs/quickstart --open",
        "kilter report --compare runs/quickstart runs/second --out compared.html",
    ],
)
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or those of one stage", metavar="RUN...")],
    compare: Annotated[
        bool, typer.Option("--compare", help="one page that sets the second run against the first")
    ] = False,
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="with --compare: the file to write; default: report-FIRST-SECOND.html beside the second run",
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
) -> None:
    """Write report.html of run folders from what their stages have left there."""
    from kilter.pipeline.report import require_run, write_comparison, write_report

    # Everything is checked before the first page is written.
    for run in runs:
        require_run(run, "RUN")
    if compare and len(runs) != 2:
        raise UserError("--compare", f"({len(runs)} runs)", "needs two runs", "give the folders of two runs")
    if out_ is not None and not compare:
        raise UserError(
            "--out", str(out_), "goes with --compare: a run's page is its report.html", "leave it out"
        )
    paths = [write_comparison(runs[0], runs[1], out_)] if compare else [write_report(run) for run in runs]
    for path in paths:
        out.print(styled("[bold]{}[/]", path))
        if open_ and not webbrowser.open(path.resolve().as_uri()):
            out.print("no browser was found; open the file yourself")
