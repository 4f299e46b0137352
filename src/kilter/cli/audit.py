"""kilter audit: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.artifacts import require_file
from kilter.cli import complete
from kilter.cli.app import BadRowOption, DataArg, FormatOption, MapOption, command, err, out, reading
from kilter.cli.data import data_app
from kilter.errors import Exit, UserError
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.data.audit.finding import Finding
    from kilter.data.audit.run import Audit, Settings
    from kilter.data.dataset import DataSpec

HeldoutOption = Annotated[
    float, typer.Option(min=0, max=0.99, help="share of prompts held out, which the rest may not give away")
]
SplitOption = Annotated[str, typer.Option(help="what the split keeps together: prompt or near_duplicates")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="count the tokens of this model for truncation", autocompletion=complete.models),
]
LENGTH = 1024
LengthOption = Annotated[int, typer.Option(min=8, help="tokens at which rows are cut")]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(help="data of an evaluation that no row may give away; repeatable", metavar="DATA"),
]
LookOption = Annotated[
    list[str] | None,
    typer.Option(help="pii, toxicity or language, each with the extra of its name; repeatable"),
]
COLOURS = {"error": "red", "waived": "yellow", "warn": "yellow", "ok": "green", "not checked": "dim"}


@command(
    examples=[
        "kilter audit pairs.jsonl",
        "kilter audit pairs.jsonl --model builtin:smollm2-135m --against suite.jsonl --out audit",
        "kilter audit pairs.jsonl --waive 'roles=the first turns are a script' --json",
    ]
)
def audit(
    path: DataArg,
    out_: Annotated[
        Path | None, typer.Option("--out", help="folder for audit.json, audit.html and flags.jsonl")
    ] = None,
    heldout: HeldoutOption = 0.0,
    split_by: SplitOption = "prompt",
    model: ModelOption = None,
    max_length: LengthOption = LENGTH,
    against: AgainstOption = None,
    look_for: LookOption = None,
    only: Annotated[list[str] | None, typer.Option(help="make this check alone; repeatable")] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option(help="let an error pass with a reason; repeatable", metavar="CHECK=REASON"),
    ] = None,
    format_: FormatOption = "auto",
    map_: MapOption = None,
    on_bad_row: BadRowOption = "error",
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Find what is wrong with a data set: defects, duplicates, leaks, biases, disagreement, shortcuts.

    Ends with 0 where no check reports an error, and with 2 where one does. A check that cannot be made says
    why. Texts of the data are never shown: findings name rows by id, or by file and line.
    """
    from kilter.data.audit import files
    from kilter.release import audit_page

    if out_ is not None and out_.exists() and not out_.is_dir():
        raise UserError("--out", str(out_), "is a file, and a folder is written", "choose another name")
    spec = _spec(path, reading(format_, map_, on_bad_row), heldout, split_by)
    _refuse_unmade(only or (), against, waive)
    settings = _settings(model, max_length, against, look_for, only, _reasons(waive or ()))
    found = _audited(spec, settings)
    if out_ is not None:
        out_.mkdir(parents=True, exist_ok=True)
        files.write(found, out_)
        audit_page.write(found.to_json(), out_)
    if as_json:
        out.print(json.dumps(found.to_json(), indent=1), soft_wrap=True)
    else:
        _print(path, found)
        if out_ is not None:
            out.print(f"written: {out_ / 'audit.html'}, audit.json, flags.jsonl", soft_wrap=True)
    if found.stopping():
        raise typer.Exit(int(Exit.BAD_INPUT))


@command(
    "filter",
    to=data_app,
    examples=[
        "kilter data filter pairs.jsonl clean.jsonl --drop identity --drop near_duplicates",
        "kilter data filter pairs.jsonl clean.jsonl --drop evaluation_leakage --against suite.jsonl",
    ],
)
def filter_(
    path: DataArg,
    target: Annotated[Path, typer.Argument(help="file of groups to write, .jsonl")],
    drop: Annotated[
        list[str], typer.Option(help="leave out the rows that this check flags; repeatable", metavar="CHECK")
    ],
    heldout: HeldoutOption = 0.0,
    split_by: SplitOption = "prompt",
    model: ModelOption = None,
    max_length: LengthOption = LENGTH,
    against: AgainstOption = None,
    look_for: LookOption = None,
    format_: FormatOption = "auto",
    map_: MapOption = None,
    on_bad_row: BadRowOption = "error",
) -> None:
    """Leave out the rows that checks of the audit flag. Rows that stay carry their flags and history.

    TARGET.filter.json lies beside the rows: hashes of source and target, and every row that was dropped.
    """
    from kilter.data.audit.files import filtered
    from kilter.data.audit.run import check_names

    check_names(drop, "--drop")
    if target.suffix != ".jsonl":
        raise UserError("target", str(target), "is not a .jsonl file", "name it something.jsonl")
    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another name, or remove it")
    require_file(target, "target")
    spec = _spec(path, reading(format_, map_, on_bad_row), heldout, split_by)
    found = _audited(spec, _settings(model, max_length, against, look_for, None, {}))
    bad = found.context.bad
    if bad.count and on_bad_row == "error" and "schema" not in drop:
        place, problem = bad.first[0]
        raise UserError(
            place, "(row)", problem, "correct the row, or leave such rows out with --on-bad-row skip"
        )
    done = filtered(found, drop, target)
    out.print(f"rows written to {target}: {done.kept}", soft_wrap=True)
    for name in drop:
        out.print(f"rows dropped for {name}: {done.dropped[name]}")
    if bad.count:
        out.print(f"rows left out because they cannot be read: {bad.count}")


def _reasons(waive: Sequence[str]) -> dict[str, str]:
    """CHECK=REASON, repeatable. Raises UserError for anything else."""
    found = {}
    for item in waive:
        name, _, reason = item.partition("=")
        if not reason.strip():
            raise UserError("--waive", item, "gives no reason", "write --waive 'roles=why it may pass'")
        if name.strip() in found:
            problem = "gives a second reason for one check"
            raise UserError("--waive", item, problem, "give each check once")
        found[name.strip()] = reason.strip()
    return found


def _refuse_unmade(only: Sequence[str], against: Sequence[str] | None, waive: Sequence[str] | None) -> None:
    """Raises UserError for what is given to checks that --only leaves out."""
    if not only:
        return
    if against and "evaluation_leakage" not in only:
        problem = f"has no effect: --only {only[0]} leaves out the check that reads it"
        raise UserError("--against", against[0], problem, "leave it out, or add --only evaluation_leakage")
    for item in waive or ():
        name = item.partition("=")[0].strip()
        if name not in only:
            problem = f"has no effect: --only leaves out the check {name}"
            raise UserError("--waive", item, problem, f"leave it out, or add --only {name}")


def _spec(path: str, fields: dict[str, Any], heldout: float, split_by: str) -> DataSpec:
    from kilter.api import make_data_spec

    spec = make_data_spec({"path": path, "heldout": heldout, "split_by": split_by} | fields)
    if split_by != "prompt" and not heldout:
        problem = "has no effect: no prompt is held out"
        raise UserError("--split-by", split_by, problem, "leave it out, or give --heldout 0.1")
    return spec


def _settings(
    model: str | None,
    max_length: int,
    against: Sequence[str] | None,
    look_for: Sequence[str] | None,
    only: Sequence[str] | None,
    waive: dict[str, str],
) -> Settings:
    """What is looked at; names are checked before a model is opened."""
    from kilter.api import make_data_spec
    from kilter.data.audit import extras
    from kilter.data.audit.run import Settings, check_names
    from kilter.models.resolve import resolve
    from kilter.roles.open import OpenSpec, open_encoder

    check_names(only or (), "--only")
    check_names(waive, "--waive")
    extras.require(look_for or (), "--look-for")
    suites = {name: make_data_spec({"path": name, "heldout": 0}) for name in against or ()}
    encoder = None
    if model is None and max_length != LENGTH:
        problem = "has no effect: no model says how texts become tokens"
        raise UserError("--max-length", max_length, problem, "leave it out, or give --model MODEL")
    if model is not None:
        encoder = open_encoder(OpenSpec(resolve(model, "--model"), max_length=max_length))
    return Settings(encoder, suites, frozenset(look_for or ()), frozenset(only or ()), waive)


def _audited(spec: DataSpec, settings: Settings) -> Audit:
    from kilter.data.audit.run import audit as run

    try:
        return run(spec, settings, said=lambda line: err.print(line, style="dim"))
    except UserError as error:
        if error.field.removesuffix(".path") not in settings.suites:
            raise
        raise UserError("--against", error.value, error.problem, error.fix) from error


def _print(path: str, found: Audit) -> None:
    """The worst first; of what passed one line each."""
    from kilter.data.audit.run import counts

    held = f", {found.heldout} held out" if found.heldout else ""
    out.print(f"{path}: format {found.format}, {many(len(found.groups), 'rows')}{held}", soft_wrap=True)
    levels = [("waived" if f.waived else f.level, f) for f in found.findings]
    for level in COLOURS:
        for _, finding in [entry for entry in levels if entry[0] == level]:
            _print_finding(level, finding)
    out.print(f"{counts(found.findings)}; rows with flags: {len(found.rows_flagged())}")


def _print_finding(level: str, finding: Finding) -> None:
    """A line with what was found; below it why it matters and what to do, where something is to be done."""
    colour = COLOURS[level]
    said = styled(f"[{colour}]{{}}[/] {{}}: {{}}", f"{level:<11}", finding.check, finding.value)
    out.print(said, soft_wrap=True)
    if finding.waived:
        out.print(f"            waived: {finding.waived}", soft_wrap=True)
    elif level in ("error", "warn"):
        out.print(f"            {finding.meaning}", style="dim", soft_wrap=True)
        out.print(f"            fix: {finding.fix}", soft_wrap=True)
