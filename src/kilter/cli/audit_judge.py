"""kilter audit-judge: measures a judge, and compares two audits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, Field
from rich.table import Table

from kilter.artifacts import require_file, write_text
from kilter.cli.app import command, err, out
from kilter.cli.doors import READING, json_option
from kilter.cli.options import collect, options_of, parameter, parameters, takes
from kilter.data.dataset import DataSpec
from kilter.errors import UserError
from kilter.screen import many
from kilter.stages.audit_judge import AuditJudgeSpec


class Source(BaseModel):
    """The labelled pairs; a comparison of two certificates needs none."""

    data: DataSpec | None = Field(None, json_schema_extra={"group": "data"})


OPTIONS = [
    *options_of(AuditJudgeSpec, skip=("judge", "data", "before")),
    *(o for o in options_of(Source) if o.path[1:2] != ("heldout",)),
]
"""Every field of an audit_judge stage and its data, but for those that the command names itself."""

OWN = [
    parameter(
        "judge",
        str | None,
        typer.Argument(metavar="[JUDGE]", help="judge.yaml, or my_file.py:NAME of a judge of your own"),
    ),
    parameter(
        "out_",
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="certificate to write; verdicts are kept beside it in a folder NAME.audit, "
            "from which the same command goes on",
            rich_help_panel="output",
        ),
        Path("judge.json"),
    ),
    parameter(
        "dry_run",
        bool,
        typer.Option("--dry-run", help="say how many verdicts it takes, and ask for none"),
        False,
    ),
    parameter(
        "compare",
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BEFORE AFTER",
            help="two certificates of the same rows: what changed, with intervals",
        ),
    ),
    json_option(),
]


@command(
    "audit-judge",
    examples=[
        "kilter audit-judge judge.yaml --data labelled.jsonl --out judge.json",
        "kilter audit-judge judge.yaml --data builtin:support-desk --dry-run",
        "kilter audit-judge --compare before.json after.json",
    ],
)
@takes(
    *parameters(
        OPTIONS,
        own=OWN,
        first=("judge", "data", "limit", "out_", "dry_run"),
        aliases=READING,
    )
)
def audit_judge(**values: Any) -> None:
    """Measure a judge on labelled pairs: its biases, and how far people agree with it.

    Writes a certificate that `kilter gate` asks for. Ends with 0 certified, 1 refused, 3 not decided, and 4
    without a certificate where the judge did not answer.
    """
    if values["compare"] is not None:
        _refuse_beside(values)
        before, after = values["compare"]
        _print_changes(before, after, values["as_json"])
        return
    if values["judge"] is None:
        raise UserError("JUDGE", "(absent)", "is required", "name a judge.yaml; docs/judge-audit.md has one")
    settings = collect(OPTIONS, values)
    source = settings.pop("data", None)
    if source is None:
        raise UserError("--data", "(absent)", "is required", "name a file of labelled pairs")
    from kilter import stages
    from kilter.api import BASE, make_data_spec
    from kilter.pipeline.alone import run_alone, workspace

    target: Path = values["out_"]
    stage = stages.make("audit_judge", {"judge": values["judge"]} | settings)
    folder = target.with_suffix(".audit")
    work = workspace(stage, folder, "audit", BASE, make_data_spec(source, heldout=0.0), err)
    if values["dry_run"]:
        _print_plan(work, values["as_json"])
        return
    require_file(target, "--out")
    facts = run_alone(work)
    certificate = (folder / "judge.json").read_text(encoding="utf-8")
    write_text(target, certificate)
    out.print(certificate if values["as_json"] else f"written: {target}", soft_wrap=True)
    raise typer.Exit(int(facts.get("code", 0)))


def _refuse_beside(values: dict[str, Any]) -> None:
    """A comparison asks no judge, so that whatever else was typed would do nothing."""
    typed = [o.flag for o in OPTIONS if values.get(o.name) not in (None, [])]
    typed = ([values["judge"]] if values["judge"] else []) + typed + ["--dry-run"] * values["dry_run"]
    if typed:
        raise UserError("--compare", typed[0], "stands beside --compare", "give two certificates alone")


def _print_plan(work: Any, as_json: bool) -> None:
    """How many verdicts each part takes."""
    from kilter.evaluation.judge_audit.probes import ASKS
    from kilter.stages.audit_judge import plan_of

    stage = work.here
    stage.maker.check_names(stage.spec, work)
    stage.maker.check(stage.spec, work)
    plan = plan_of(stage.spec, work)
    counts = {name: (len(asked), 2 * ASKS[name].repeats * len(asked)) for name, asked in plan.asks.items()}
    if as_json:
        asks = {name: {"comparisons": n, "verdicts": calls} for name, (n, calls) in counts.items()}
        found = {"pairs": len(plan.material.cases), "verdicts": plan.calls(), "asks": asks}
        out.print(json.dumps(found, indent=1), soft_wrap=True)
        return
    table = Table("asked", "comparisons", "verdicts", box=None, pad_edge=False)
    for name, (n, calls) in counts.items():
        table.add_row(name, f"{n:,}", f"{calls:,}")
    out.print(table)
    pairs = many(len(plan.material.cases), "labelled pairs", ",")
    out.print(f"\n{many(plan.calls(), 'verdicts', ',')} of {pairs}; none was asked for")


def _print_changes(before: Path, after: Path, as_json: bool) -> None:
    """What changed from one audit to the other."""
    from kilter.evaluation.judge_audit.report import CHANGE_HEAD, change_rows, changes
    from kilter.feedback.judge.certificate import read

    old, new = read(before), read(after)
    found = changes(old, new)
    if as_json:
        out.print(json.dumps(found, indent=1), soft_wrap=True)
        return
    table = Table(*CHANGE_HEAD, box=None, pad_edge=False)
    for row in change_rows(found):
        table.add_row(*row)
    out.print(f"from {old.judge.name} ({old.made}) to {new.judge.name} ({new.made})", soft_wrap=True)
    out.print(table)
    grew = [c["title"] for c in found if c["worse"]]
    out.print(f"\nworse since: {', '.join(grew)}" if grew else "\nnothing is surely worse")
