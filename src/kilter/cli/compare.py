"""kilter compare: which method, on my data, at what cost?"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kilter.cli.app import SetOption, command, out
from kilter.errors import UserError
from kilter.progress import clock
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.recipe import Recipe


@command(
    examples=[
        "kilter compare recipes/compare-support-desk.yaml",
        "kilter compare my-study.yaml --dry-run",
        "kilter compare my-study.yaml --set seeds=[0]",
    ]
)
def compare(
    recipe: Annotated[Path, typer.Argument(help="a comparison (YAML): data, start, methods, seeds")],
    set_: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells and what they take; nothing is run")
    ] = False,
    runs: Annotated[Path, typer.Option(help="folder that holds run folders")] = Path("runs"),
    publish: Annotated[
        bool,
        typer.Option(
            "--publish", help="write the results into the methods' pages (for Kilter's own comparison)"
        ),
    ] = False,
) -> None:
    """Train every method from one start on the same rows, and compare them. Run it again to resume.

    All of them answer the same held-out prompts.
    """
    from kilter.pipeline.runner import Run
    from kilter.study import page, study

    wanted = study.load(recipe, set_ or ())
    expanded = study.expand(wanted)
    found = study.cells(wanted)
    folder = runs / wanted.name
    missing = [c.stage for c in found if not (folder / c.stage / "model").exists()]
    need, free = _disk(expanded, missing), shutil.disk_usage(_existing(runs)).free / 1e9
    if dry_run:
        with study.naming(wanted):
            seconds = _print_plan(expanded)
        out.print(
            f"\n{many(len(found), 'runs')} of {many(len(wanted.methods), 'methods')}, "
            f"about {clock(seconds)} in all, {need:.0f} GB of disk ({free:.0f} free); nothing was run",
        )
        return
    if need > free and not (folder / "compare.json").exists():
        raise UserError(
            "--runs",
            str(runs),
            f"has {free:.0f} GB free, and {len(missing)} models need about {need:.0f}",
            "free some, choose another folder, or train adapters (train: {adapter: {}})",
        )
    with study.naming(wanted):
        code = Run(expanded, folder, out, isolated=True).execute()
    path = page.write(wanted, folder)
    if publish:
        out.print(
            f"{many(page.publish(wanted, folder), 'sentences')} written into the methods' pages; "
            "now: kilter methods --write docs/methods",
        )
    out.print((folder / "compare.md").read_text(), soft_wrap=True)
    out.print(styled("page: [bold]{}[/]", path))
    raise typer.Exit(int(code))


def _disk(recipe: Recipe, missing: Sequence[str]) -> float:
    """GB that the models of these stages take, with room for two more while they are made."""
    from kilter.models.resolve import resolve
    from kilter.training.estimate import sizes

    adapters = [recipe.stages[name].spec.adapter for name in missing]
    whole = [a for a in adapters if a is None or a.merge]
    each = sizes(resolve(recipe.model)).parameters * 4 / 1e9
    return each * (len(whole) + 2) + 0.1 * len(missing)


def _print_plan(recipe: Recipe) -> float:
    """A line for each stage; returns the seconds of all."""
    from kilter.pipeline.plan import plan

    plans = {p.name: p for p in plan(recipe, out)}
    width = max(len(name) for name in plans)
    out.print(f"{'stage':<{width}} {'rows':>6} {'time':>8}")
    for p in plans.values():
        out.print(f"{p.name:<{width}} {p.rows or '':>6} {clock(p.seconds):>8}")
    return sum(p.seconds or 0 for p in plans.values())


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    while not path.exists():
        path = path.parent if path.parent != path else Path()
    return path
