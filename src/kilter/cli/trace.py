"""kilter trace: the whole history of a row that a run made and trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.app import command, out


@command(
    "trace",
    examples=[
        "kilter trace runs/constitutional-ai 0 --stage revise",
        "kilter trace runs/constitutional-ai desk-7-12",
    ],
)
def trace(
    run: Annotated[
        Path, typer.Argument(help="folder of a run, or of a stage that makes data", metavar="RUN")
    ],
    row: Annotated[
        str, typer.Argument(help="place in the stage's file from 0 on, or the row's name", metavar="ROW")
    ],
    stage: Annotated[
        str, typer.Option(help="stage of the run; default: the last that has the row and does not evaluate")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Print a row's history: prompt, answers, critiques, revisions, verdicts, certificates, hashes."""
    from kilter.release.trace import find, lines, record

    found = find(run, row, stage)
    for line in [json.dumps(record(found), indent=1)] if as_json else lines(found):
        out.print(line, soft_wrap=True)
