"""kilter methods and check-method: what there is to train with, and whether a method keeps the contract."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kilter.cli import complete
from kilter.cli.app import command, out
from kilter.errors import Exit
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.objectives.describe import Description
    from kilter.objectives.knobs import Knob


@command(
    examples=[
        "kilter methods",
        "kilter methods dpo",
        "kilter methods --json",
        "kilter methods my_file.py:MyLoss",
    ]
)
def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="a method by name, or my_file.py:MyLoss; none: all of them", autocompletion=complete.methods
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    write: Annotated[
        Path | None, typer.Option(help="write every method's page (Markdown) into this folder")
    ] = None,
) -> None:
    """List the methods, or show one of them: formula, paper, data, models held, settings with ranges."""
    from kilter.objectives import objectives
    from kilter.objectives.index import lookup

    if write is not None:
        from kilter.objectives.pages import write_pages

        count = write_pages(write)
        out.print(f"{many(count, 'pages')} written to {write}")
        return
    if as_json:
        found = lookup(name).to_json() if name else [lookup(n).to_json() for n in objectives.names()]
        out.print(json.dumps(found, indent=1), soft_wrap=True)
        return
    if name is not None:
        _page(lookup(name))
        return
    _list([lookup(n) for n in objectives.names()])


def _list(found: list[Description]) -> None:
    """All methods by family, and those that recipes of this folder name."""
    rows = sorted(found, key=lambda d: (d.family, d.name))
    for family, group in itertools.groupby(rows, key=lambda d: d.family):
        members = list(group)
        kinds = sorted({d.data for d in members})
        kind = styled("  [dim]{}[/]", kinds[0]) if len(kinds) == 1 else ""
        out.print(styled("\n[bold]{}[/]{}", family, kind))
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
        table.add_column(width=22, no_wrap=True)
        table.add_column(width=3)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(20, out.width - 31))
        for d in members:
            table.add_row(f"  {d.name}", "ref" if any("reference" in m for m in d.models) else "", d.summary)
        out.print(table)
    own = _own()
    if own:
        out.print(styled("\n[bold]yours[/]  [dim]named in recipes and runs of this folder[/]"))
        for label, summary in own:
            out.print(f"  {label}  {summary}")
    out.print(
        f"\n{len(rows)} methods; ref: needs a reference policy. "
        "Formula, settings and advice of one: kilter methods NAME",
    )


def _own() -> list[tuple[str, str]]:
    """(file.py:Class, its first line) of methods that recipes and runs here name. The files are not run."""
    places = itertools.chain(
        *(
            Path().glob(p)
            for p in (
                "*.yaml",
                "recipes/*.yaml",
                "runs/*/recipe.yaml",
                "runs/*/train.json",
                "runs/*/*/train.json",
            )
        )
    )
    texts = (p.read_text(encoding="utf-8", errors="replace") for p in places if p.is_file())
    named = {m[1] for text in texts for m in re.finditer(r"[\"' ]((?:[\w./-]+/)?[\w-]+\.py:[A-Z]\w*)", text)}
    found = []
    for label in sorted(named):
        file, _, name = label.rpartition(":")
        try:
            tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        found += [
            (label, (ast.get_docstring(c) or "").partition("\n")[0])
            for c in ast.walk(tree)
            if isinstance(c, ast.ClassDef) and c.name == name
        ]
    return found


def _page(d: Description) -> None:
    """Formula, paper, data, advice and settings of one method."""
    out.print(styled("[bold]{}[/]  {}", d.name, d.family))
    out.print(d.summary)
    out.print()
    for line in d.formula.splitlines():
        out.print(f"    {line}", style="cyan", soft_wrap=True)
    out.print()
    pairs = (
        ("", d.notation),
        ("paper", d.paper),
        ("data", d.data),
        ("in memory", ", ".join(d.models)),
        ("use", d.use),
        ("watch", d.watch),
        ("fails", d.fails),
        ("rate", f"{d.learning_rate:g} by default"),
    )
    grid = Table.grid(padding=(0, 2))
    for label, text in pairs:
        if text:
            grid.add_row(styled("[bold]{}[/]", label), text)
    out.print(grid)
    if d.knobs:
        out.print()
        out.print(_settings(d.knobs))


def _settings(knobs: Sequence[Knob]) -> Table:
    """A row for each setting of a method."""
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "default", "range", "usual", "meaning"):
        table.add_column(column, overflow="fold")
    for k in knobs:
        choices = ", ".join(map(str, k.choices)) or ("true, false" if k.kind == "bool" else k.interval)
        default = "null" if k.default is None else str(k.default)
        table.add_row(k.name, default, choices, k.usual, k.meaning)
    return table


@command("check-method", examples=["kilter check-method my_file.py:MyLoss", "kilter check-method dpo"])
def check_method(
    name: Annotated[
        str,
        typer.Argument(
            help="my_file.py:MyLoss, package.module:Name, or a method by name",
            autocompletion=complete.methods,
        ),
    ],
) -> None:
    """Run the contract that every method of Kilter keeps on yours. Exit code 1 when a check fails."""
    from kilter.objectives.contract import CHECKS, run_contract

    found = run_contract(name)
    for check, problem in found:
        text = (CHECKS[check].__doc__ or check).split("\n")[0]
        verdict = "[red]fail[/]  {}" if problem else "[green]ok  [/]  {}"
        out.print(styled(verdict, text))
        if problem:
            out.print(f"        {problem}")
    failed = sum(bool(p) for _, p in found)
    out.print(f"{len(found) - failed} of {len(found)} checks passed")
    if failed:
        raise typer.Exit(int(Exit.GATE_FAILED))
