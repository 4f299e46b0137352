"""The typer application, its two consoles, and what several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kilter.cli import complete
from kilter.cli.help import Command, Group
from kilter.cli.options import name_types, pairs_of
from kilter.data.worlds.registry import paths
from kilter.models.remote_code import FLAG
from kilter.screen import Screen
from kilter.version import __version__

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Align language models with preferences, and prove it.",
    epilog="kilter run recipes/quickstart.yaml\nkilter advise pairs.jsonl\nkilter train --help",
)
out, err = Screen(), Screen(stderr=True)

ModelArg = Annotated[
    str,
    typer.Argument(help="builtin:NAME, a folder, a .gguf file, or a Hub id", autocompletion=complete.models),
]
DataArg = Annotated[
    str,
    typer.Argument(
        help=f"file, Hub name (owner/name), or {', '.join(paths())}", autocompletion=complete.data
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="auto, a name listed by kilter data formats, or my_file.py:read",
        rich_help_panel="data",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="what the data calls a column, e.g. prompt=question; repeatable",
        metavar="NAME=COLUMN",
        rich_help_panel="data",
    ),
]
BadRowOption = Annotated[
    str,
    typer.Option(
        "--on-bad-row",
        help="stop at a bad row (error), or skip and count it (skip)",
        rich_help_panel="data",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a field, e.g. data.limit=200", metavar="KEY=VALUE"),
]


ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="YAML that says which roles of train stages run on other processes and machines",
    ),
]


def reading(format_: str, map_: list[str] | None, on_bad_row: str) -> dict[str, Any]:
    """How a file is read, as fields of a data set."""
    return {"format": format_, "map": pairs_of(map_ or (), "--map"), "on_bad_row": on_bad_row}


def command(
    name: str | None = None, *, examples: Sequence[str], to: typer.Typer = app
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a function becomes a command; its --help begins with the examples."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        name_types(function)
        return to.command(name, cls=Command, epilog="\n".join(examples))(function)

    return add


def commands(name: str, *, help: str, examples: Sequence[str]) -> typer.Typer:
    """A command that has commands below it."""
    made = typer.Typer(cls=Group, no_args_is_help=True, help=help, epilog="\n".join(examples))
    app.add_typer(made, name=name)
    return made


def _version(asked: bool) -> None:
    if asked:
        print(f"kilter {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="print the version")
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(FLAG, help="let models run Python code of their own; it may stand anywhere"),
    ] = False,
) -> None:
    """What stands before every command."""
