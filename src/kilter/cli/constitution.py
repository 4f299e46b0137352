"""kilter constitution: show, lint, convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from kilter.artifacts import require_file, write_text
from kilter.cli.app import command, commands, out
from kilter.constitution.read import shipped
from kilter.errors import Exit, UserError, nearest
from kilter.screen import styled

constitution_app = commands(
    "constitution",
    help="Read constitutions, check them, convert them.",
    examples=[
        "kilter constitution show general",
        "kilter constitution lint my.yaml",
    ],
)

Document = Annotated[
    str, typer.Argument(help=f"{', '.join(shipped())}, a .yaml file, or a .json file", metavar="NAME")
]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable")]


@command("show", to=constitution_app, examples=["kilter constitution show general"])
def show(name: Document, as_json: JsonOption = False) -> None:
    """Print a constitution: its principles by rank, with weight and scope."""
    from kilter.constitution.read import load

    document = load(name)
    if as_json:
        out.print(json.dumps(document.model_dump(mode="json"), indent=1), soft_wrap=True)
        return
    count = len(document.principles)
    licence = document.licence or "no licence"
    out.print(
        f"{document.name}: {count} principle{'s' * (count != 1)}, {licence}, {document.fingerprint[:16]}"
    )
    ranks = document.tiers
    for principle in sorted(document.principles, key=lambda p: ranks[p.id]):
        scope = principle.scope
        where = [f"prompts like {scope.prompts!r}"] * (scope.prompts is not None)
        where += [f"labelled {', '.join(scope.labels)}"] * bool(scope.labels)
        notes = [f"rank {ranks[principle.id]}", f"weight {principle.weight:g}", *where]
        out.print(styled("[bold]{}[/]  {}", principle.id, "; ".join(notes)))
        out.print(f"  {principle.rule}", soft_wrap=True)


@command("lint", to=constitution_app, examples=["kilter constitution lint my.yaml"])
def lint(name: Document, as_json: JsonOption = False) -> None:
    """Check a constitution by reading it: duplicates, broken examples, ranks. Exit code 2 for an error."""
    from dataclasses import asdict

    from kilter.constitution.lint import lint as check
    from kilter.constitution.read import load

    document = load(name)
    found = check(document)
    if as_json:
        out.print(json.dumps([asdict(f) for f in found], indent=1), soft_wrap=True)
    for finding in found if not as_json else ():
        colour = {"error": "red", "warn": "yellow"}[finding.level]
        who = finding.principle or document.name
        out.print(styled(f"[{colour}]{{}}[/] {{}} {{}}", f"{finding.level:<5}", who, finding.problem))
    if not found and not as_json:
        out.print(f"{document.name}: {len(document.principles)} principles, nothing to object to")
    if any(f.level == "error" for f in found):
        raise typer.Exit(int(Exit.BAD_INPUT))


@command(
    "convert",
    to=constitution_app,
    examples=[
        "kilter constitution convert principles.json mine.yaml",
        "kilter constitution convert general general.json --to pairs",
    ],
)
def convert(
    name: Document,
    target: Annotated[Path, typer.Argument(help="file to write: .yaml, or .json of a public layout")],
    to: Annotated[
        str, typer.Option(help="kilter, revisions ({id: {prompt, edit_request}}) or pairs (critic, revision)")
    ] = "kilter",
) -> None:
    """Read any known layout, and write any of them."""
    from kilter.constitution.layouts import WRITERS
    from kilter.constitution.read import load

    if to not in WRITERS:
        raise UserError("--to", to, "is not a layout", nearest(to, WRITERS))
    suffix = ".yaml" if to == "kilter" else ".json"
    if target.suffix != suffix:
        raise UserError("target", str(target), f"is not a {suffix} file", f"name it something{suffix}")
    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another name, or remove it")
    document = load(name)
    require_file(target, "target")
    raw = WRITERS[to](document)
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=100) if to == "kilter" else ""
    write_text(target, text or json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    out.print(f"{len(document.principles)} principles written to {target}")
