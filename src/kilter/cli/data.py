"""kilter data: peek, convert, formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.artifacts import require_file
from kilter.cli.app import (
    BadRowOption,
    DataArg,
    FormatOption,
    MapOption,
    command,
    commands,
    out,
    reading,
)
from kilter.data.worlds.registry import is_world, paths
from kilter.errors import UserError, nearest
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.data.dataset import Dataset
    from kilter.types import Group, Message

ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "--data.threshold",
        help="with --shape unpaired: the first rating of a good answer",
        rich_help_panel="data",
    ),
]

SHAPES = ("demonstrations", "pairs", "unpaired", "ranked", "prompts")

data_app = commands(
    "data",
    help="Look at preference data, convert it, filter it.",
    examples=[
        "kilter data peek pairs.jsonl",
        "kilter data formats",
        "kilter data convert hh.jsonl.gz groups.jsonl --shape pairs",
    ],
)


@command(
    to=data_app,
    examples=[
        "kilter data peek pairs.jsonl",
        "kilter data peek pairs.jsonl --map prompt=question --shape pairs",
        "kilter data peek builtin:support-desk --shape pairs -n 2",
    ],
)
def peek(
    path: DataArg,
    shape: Annotated[
        str, typer.Option(help="demonstrations, pairs, unpaired, ranked or prompts")
    ] = "prompts",
    n: Annotated[int, typer.Option("-n", min=1, help="groups to show")] = 3,
    format_: FormatOption = "auto",
    map_: MapOption = None,
    on_bad_row: BadRowOption = "error",
    threshold: ThresholdOption = None,
) -> None:
    """Show what Kilter reads from a file: detected format, counts, the first groups."""
    data = _load(path, shape, reading(format_, map_, on_bad_row) | {"threshold": threshold})
    groups = [*data.train[:n], *data.heldout[:n]]
    _say(path, data)
    for group in groups[:n]:
        out.rule(group.prompt.id or "", style="dim")
        _show(group)


def _say(path: str, data: Dataset) -> None:
    """What was read, and what was not."""
    count = len(data.train) + len(data.heldout)
    out.print(f"{path}: format {data.format}, {many(count, 'groups')}", soft_wrap=True)
    for note in data.notes():
        out.print(note, soft_wrap=True)


def _show(group: Group) -> None:
    """One group as a person reads it."""
    if group.prompt.tools:
        names = ", ".join(str(t.get("function", t).get("name", "?")) for t in group.prompt.tools)
        out.print(f"tools: {names}", style="dim")
    for turn in group.prompt.messages:
        _show_turn(turn)
    if group.prompt.text:
        out.print(group.prompt.text)
    for c, f in zip(group.completions, group.feedback, strict=True):
        score = "unscored" if f.score is None else f"{f.kind} {f.score:g}"
        out.print(styled("[cyan]→ {}[/] ", score), end="")
        if not c.turns:
            out.print(c.text)
        for turn in c.turns:
            _show_turn(turn)


def _show_turn(turn: Message) -> None:
    """A turn with what it calls and thinks, and whether it is learned."""
    mark = "" if turn.get("train", True) else " (not learned)"
    out.print(styled("[bold]{}[/]{}: ", turn["role"], mark), end="")
    if "reasoning_content" in turn:
        out.print(f"({turn['reasoning_content']}) ", end="", style="dim")
    calls = [json.dumps(c["function"], ensure_ascii=False) for c in turn.get("tool_calls", ())]
    said = " ".join(filter(None, [turn["content"], *(f"calls {c}" for c in calls)]))
    out.print(said)


def _load(path: str, shape: str, fields: dict[str, Any]) -> Dataset:
    from kilter.api import make_data_spec
    from kilter.data.dataset import load

    if shape not in SHAPES:
        raise UserError("--shape", shape, "is not a shape", nearest(shape, SHAPES))
    if fields.get("threshold") is not None and shape != "unpaired":
        problem = f"is read with --shape unpaired alone, and the shape is {shape}"
        raise UserError("--threshold", fields["threshold"], problem, "leave it out, or add --shape unpaired")
    source = make_data_spec({"path": path, "heldout": 0.0} | fields)
    return load(source, shape, learned=False)  # type: ignore[arg-type]


@command(
    to=data_app,
    examples=[
        "kilter data convert hh.jsonl.gz groups.jsonl --shape pairs",
        "kilter data convert pairs.csv trl.jsonl --shape pairs --to trl",
        "kilter data convert builtin:support-desk steps.jsonl --view steps --size 1000",
    ],
)
def convert(
    path: DataArg,
    target: Annotated[Path, typer.Argument(help="file of JSON lines to write")],
    shape: Annotated[
        str, typer.Option(help="demonstrations, pairs, unpaired, ranked, or prompts (keeps every completion)")
    ] = "prompts",
    to: Annotated[str, typer.Option(help="kilter (groups), trl, or sharegpt (LLaMA-Factory)")] = "kilter",
    format_: FormatOption = "auto",
    map_: MapOption = None,
    on_bad_row: BadRowOption = "error",
    threshold: ThresholdOption = None,
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
    """Convert any known format to groups.jsonl, or to rows that other tools read."""
    from kilter.data.export import EXPORTS, write

    if to not in EXPORTS:
        raise UserError("--to", to, "is not a format to convert to", nearest(to, list(EXPORTS)))
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
    world = {name: value for name, value in (("view", view), ("n", size)) if value is not None}
    if world and not is_world(path):
        flag, value = ("--view", view) if view is not None else ("--size", size)
        problem = f"has no effect: it is a dial of a world, and {path} is none"
        raise UserError(flag, value, problem, f"leave it out, or convert {' or '.join(paths())}")
    more = {"threshold": threshold} | ({"world": world} if world else {})
    data = _load(path, shape, reading(format_, map_, on_bad_row) | more)
    write(target, data.train, to, shape)  # type: ignore[arg-type]
    out.print(f"{many(len(data.train), 'groups')} written to {target}")
    for note in data.notes():
        out.print(note, soft_wrap=True)


@command(to=data_app, name="formats", examples=["kilter data formats", "kilter data formats preference"])
def list_formats(
    name: Annotated[str | None, typer.Argument(help="one format by name; default: all of them")] = None,
) -> None:
    """List the formats that Kilter reads, each with an example row."""
    from kilter.data.formats import formats

    known = formats.in_order()
    if name is not None:
        known = [f for f in known if f.name == name]
        if not known:
            raise UserError("name", name, "is not a known format", nearest(name, formats.names()))
    for found in known:
        out.print(styled("[bold]{}[/]  {}", found.name, found.description))
        row = json.dumps(dict(found.example), ensure_ascii=False)
        out.print(f"  {row}", style="dim", soft_wrap=True)
    if name is None:
        _print_beside()


BESIDE: Sequence[tuple[str, str]] = (
    ("system", "a system message before the prompt"),
    ("tools", "functions that the chat template lists"),
    ("chat_template_kwargs", "further settings of the chat template"),
    ("id, prompt_id", "the name of the row"),
    ("margin", "how far the sides of a pair are apart"),
    ("chosen_score, rejected_score", "scores of the sides, which decide over their positions"),
    ("turns: tool_calls, reasoning_content", "what an assistant turn calls and thinks"),
    ("turns: weight 0, train false", "an assistant turn that is context and not learned"),
)
"""Columns and keys that are read beside every format."""


def _print_beside() -> None:
    out.print(styled("\n[bold]Beside any format[/]"))
    for column, meaning in BESIDE:
        out.print(f"  {column}: {meaning}")
    out.print(
        "\nOther columns go along to reward functions and verifiers. --map prompt=question says what "
        "a column is; --format my_file.py:read reads rows of your own.",
    )
