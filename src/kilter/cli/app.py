"""The typer application, its two consoles, and what several commands share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Align language models with preferences, and prove it.\n\nFirst run: [bold]kilter run recipes/quickstart.yaml[/]",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at preference data, convert it.")
app.add_typer(data_app, name="data")
out, err = Console(), Console(stderr=True)

ModelArg = Annotated[str, typer.Argument(help="builtin:NAME, a folder, a .gguf file, or a Hub id")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a field, e.g. stages.dpo.train.epochs=2", metavar="KEY=VALUE"),
]


def epilog(*examples: str) -> str:
    """The examples at the end of --help."""
    return "[bold]Examples[/]\n\n" + "\n\n".join(f"$ {e}" for e in examples)


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them."""
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
