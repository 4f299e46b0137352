"""The typer application, its two consoles, and what several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.console import Console

from kilter.cli import complete
from kilter.cli.help import Command, Group
from kilter.cli.options import name_types
from kilter.data.worlds.registry import paths
from kilter.version import __version__

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Align language models with preferences, and prove it.",
    epilog="kilter run recipes/quickstart.yaml\nkilter advise pairs.jsonl\nkilter train --help",
)
out, err = Console(), Console(stderr=True)

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
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a field, e.g. stages.dpo.train.epochs=2", metavar="KEY=VALUE"),
]


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
) -> None:
    """What stands before every command."""
