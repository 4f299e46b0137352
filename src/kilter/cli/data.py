"""kilter data peek and convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kilter.artifacts import require_file
from kilter.cli.app import DataArg, command, commands, out
from kilter.data.worlds.registry import is_world, paths
from kilter.errors import UserError

data_app = commands(
    "data",
    help="Look at preference data, convert it.",
    examples=[
        "kilter data peek pairs.jsonl",
        "kilter data convert hh.jsonl.gz groups.jsonl --shape pairs",
    ],
)


@command(
    to=data_app,
    examples=["kilter data peek pairs.jsonl", "kilter data peek builtin:support-desk --shape pairs -n 2"],
)
def peek(
    path: DataArg,
    shape: Annotated[
        str, typer.Option(help="demonstrations, pairs, unpaired, ranked or prompts")
    ] = "prompts",
    n: Annotated[int, typer.Option("-n", min=1, help="groups to show")] = 3,
    format_: Annotated[str, typer.Option("--format", help="auto, or a format by name")] = "auto",
) -> None:
    """Show what Kilter reads from a file: detected format, counts, the first groups."""
    data = _load(path, shape, format_)
    groups = [*data.train, *data.heldout]
    out.print(
        f"[bold]{path}[/]: format {data.format}, {len(groups)} groups"
        + (f", left out: {data.left_out()}" if data.skipped else ""),
        highlight=False,
    )
    for group in groups[:n]:
        out.rule(group.prompt.id or "", style="dim")
        for m in group.prompt.messages:
            out.print(f"[bold]{m['role']}[/]: ", end="")
            out.print(m["content"], markup=False, highlight=False)
        if group.prompt.text:
            out.print(group.prompt.text, markup=False, highlight=False)
        for c, f in zip(group.completions, group.feedback, strict=True):
            score = "unscored" if f.score is None else f"{f.kind} {f.score:g}"
            out.print(f"[cyan]→ {score}[/] ", end="")
            out.print(c.text, markup=False, highlight=False)


def _load(path: str, shape: str, format_: str, world: dict[str, Any] | None = None) -> Any:
    from kilter.api import make_data_spec
    from kilter.data.dataset import load
    from kilter.errors import nearest

    shapes = ("demonstrations", "pairs", "unpaired", "ranked", "prompts")
    if shape not in shapes:
        raise UserError("--shape", shape, "is not a shape", nearest(shape, shapes))
    source = make_data_spec({"path": path, "format": format_, "heldout": 0, "world": world or {}})
    return load(source, shape)  # type: ignore[arg-type]


@command(
    to=data_app,
    examples=[
        "kilter data convert hh.jsonl.gz groups.jsonl --shape pairs",
        "kilter data convert builtin:support-desk steps.jsonl --view steps --size 1000",
    ],
)
def convert(
    path: DataArg,
    target: Annotated[Path, typer.Argument(help="groups.jsonl to write")],
    shape: Annotated[
        str, typer.Option(help="demonstrations, pairs, unpaired, ranked, or prompts (keeps every completion)")
    ] = "prompts",
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="auto, hh, preference, unpaired, conversations, alpaca, ratings, oasst, stepwise, ...",
        ),
    ] = "auto",
    view: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(paths())}: pairs, demonstrations, binary, ranked, steps, prompts; default: auto"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help=f"{', '.join(paths())}: number of prompts; default: the world's own")
    ] = None,
) -> None:
    """Convert any known format to groups.jsonl."""
    from kilter.data import store

    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another name, or remove it")
    if target.suffix != ".jsonl":
        raise UserError(
            "target",
            str(target),
            "is not a .jsonl file",
            "name it something.jsonl: groups are written as plain JSON lines",
        )
    require_file(target, "target")
    dials = {"view": view, "n": size} if is_world(path) else {}
    world = {name: value for name, value in dials.items() if value is not None}
    data = _load(path, shape, format_, world)
    store.append(target, data.train)
    out.print(
        f"{len(data.train)} groups written to {target}"
        + (f"; left out: {data.left_out()}" if data.skipped else ""),
        highlight=False,
    )
