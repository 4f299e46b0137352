"""What the commands of one stage share: the options that name its model, its data and its result."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, Field

from kilter.cli import complete
from kilter.cli.options import Option, options_of, parameter
from kilter.data.dataset import DataSpec
from kilter.sampling.config import NAMES_MODEL


class Source(BaseModel):
    """The data set of a stage that has no recipe."""

    data: DataSpec = Field(json_schema_extra={"group": "data"})


ANSWERER: Any = typer.Argument(
    help="builtin:NAME, a folder, a .gguf file, or a Hub id; the endpoint's name of a model with "
    "--sampler openai; a script's file with --sampler scripted",
    metavar="MODEL",
    autocompletion=complete.models,
)
"""Who answers: the model, or what another sampler knows it by."""


def name_answerer(settings: dict[str, Any], model: str) -> None:
    """Says who answers where the sampler opens no weights.

    An endpoint has a name for its model and a script is a file. To a person both are who answers.
    """
    sampler = settings.get("sampler", {})
    field = NAMES_MODEL.get(sampler.get("name", ""))
    if field is not None:
        sampler.setdefault(field, model)


def source_options(*skip: str) -> list[Option]:
    """`--data` and an option for each field of a data set, but for those that a command replaces."""
    return [o for o in options_of(Source) if o.path[1:2] not in [(name,) for name in skip]]


READING = {
    "data__format": ("--format",),
    "data__map": ("--map",),
    "data__on_bad_row": ("--on-bad-row",),
}
"""Short forms of the options that say how a file is read, the same in every command."""


def out_option(default: Path | None, text: str) -> inspect.Parameter:
    """`--out`: where the result goes."""
    info = typer.Option("--out", metavar="FOLDER", help=text, rich_help_panel="output")
    return parameter("out_", Path | None if default is None else Path, info, default)


def dry_run_option(text: str) -> inspect.Parameter:
    """`--dry-run`: what a run would take."""
    return parameter("dry_run", bool, typer.Option("--dry-run", help=text, rich_help_panel="output"), False)


def json_option() -> inspect.Parameter:
    """`--json`: for programs."""
    info = typer.Option("--json", help="machine-readable", rich_help_panel="output")
    return parameter("as_json", bool, info, False)


def model_option() -> inspect.Parameter:
    """`--model`: where the stage starts."""
    info = typer.Option(
        help="builtin:NAME, a folder, a .gguf file, or a Hub id",
        metavar="MODEL",
        rich_help_panel="model",
        autocompletion=complete.models,
    )
    return parameter("model", str, info, "builtin:smollm2-135m")
