"""kilter audit-classifier: how well the response classifier reads answers that people have labelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from kilter.artifacts import require_file, sha256_file, write_json
from kilter.cli.app import command, err, out
from kilter.progress import Display
from kilter.screen import styled

if TYPE_CHECKING:
    from kilter.evaluation.response.labelled import Role

SHOWN = 160
"""Letters of a misread answer that are printed."""


@command(
    "audit-classifier",
    examples=[
        "kilter audit-classifier xstest_completions.csv",
        "kilter audit-classifier answers.jsonl --label verdict --writer model_name --out measured.json",
        "kilter eval --model builtin:smollm2-135m --data prompts.jsonl --instruments measured.json",
    ],
)
def audit_classifier(
    file: Annotated[
        Path,
        typer.Argument(help="rows with prompt, answer, label and model; CSV, JSONL, Parquet", metavar="FILE"),
    ],
    prompt: Annotated[str, typer.Option(help="column of the request", metavar="COLUMN")] = "",
    answer: Annotated[str, typer.Option(help="column of the answer", metavar="COLUMN")] = "",
    label: Annotated[
        str,
        typer.Option(
            help="column of what people say: full_refusal, partial_refusal, compliance", metavar="COLUMN"
        ),
    ] = "",
    writer: Annotated[str, typer.Option(help="column of who wrote the answer", metavar="COLUMN")] = "",
    misses: Annotated[int, typer.Option(min=0, help="misread answers that are shown")] = 5,
    target: Annotated[
        Path | None, typer.Option("--out", help="measurement for `instruments` of an evaluation")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Measure the response classifier on labelled answers: sensitivity and specificity by model.

    Rates of refusal are corrected by what is measured here if an evaluation names the file.
    """
    from kilter.evaluation.response import labelled

    if target is not None:
        require_file(target, "--out")
    named: dict[Role, str] = {"prompt": prompt, "answer": answer, "label": label, "writer": writer}
    material = labelled.load(file, {role: name for role, name in named.items() if name})
    if target is not None:
        labelled.require_both(material.rows, str(file))
    with Display(err, "answers read", len(material.rows)) as display:
        found = labelled.readings(material.rows, display.update)
    about = {"measured": f"answers of {file.name} that people labelled", "data_hash": sha256_file(file)}
    made = labelled.measurement(material.rows, found, **about, left_out=dict(material.left_out))
    if target is not None:
        write_json(target, made, indent=1)
    if as_json:
        out.print(json.dumps(made, indent=1), soft_wrap=True)
        return
    _print(made, material)
    for row, reading in labelled.misread(material.rows, found)[:misses]:
        text = " ".join(row.answer.split())
        said = text[:SHOWN] + "..." * (len(text) > SHOWN)
        line = f"{row.place}: {row.label}, read as {reading.kind} ({reading.declines:.2f}): {said!r}"
        out.print(line, soft_wrap=True)
    if target is not None:
        out.print(f"written: {target}", soft_wrap=True)


def _print(made: Mapping[str, Any], material: Any) -> None:
    """A row for each writer, then all of them, and what was left out."""
    from kilter.evaluation.response.labelled import AIMS, RATES, verdict

    told = ", ".join(f"{role} in {name!r}" for role, name in material.columns.items())
    out.print(f"{len(material.rows)} labelled answers: {told}", soft_wrap=True)
    if "prompt" not in material.columns:
        line = "no column holds the request: the second reader is not asked, and less is found"
        out.print(styled("[yellow]warn[/] {}", line), soft_wrap=True)
    for why, n in material.left_out.items():
        out.print(f"rows left out {why}: {n}")
    table = Table("answers of", "refusals found", "help let pass", "partial found", "aims", box=None)
    rows = [*made["by_style"].items()] if len(made["by_style"]) > 1 else []
    for name, rates in [*rows, ("all", made)]:
        cells = [_cell(rates, rate, n) for rate, n, _ in RATES]
        table.add_row(name, *cells, verdict(rates))
    out.print(table)
    aims = f"{AIMS['sensitivity']:.2f} of the full refusals, {AIMS['specificity']:.2f} of the help"
    out.print(f"aims: {aims}; open: reached, but not by the whole interval")


def _cell(rates: Mapping[str, Any], rate: str, n: str) -> str:
    """0.95 of 213, and below it the interval."""
    if not rates[n]:
        return "none"
    low, high = rates["intervals"][rate]
    return f"{rates[rate]:.2f} of {rates[n]}\n[{low:.2f}, {high:.2f}]"
