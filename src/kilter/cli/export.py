"""kilter export: a folder that other tools load as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kilter.cli import complete
from kilter.cli.app import command, out
from kilter.screen import styled


@command(
    "export",
    examples=[
        "kilter export runs/quickstart --to exported",
        "kilter export runs/my-dpo --to merged --merge --dtype bfloat16",
        "kilter export HuggingFaceTB/SmolLM2-135M-Instruct --to served --untie",
    ],
)
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="a run folder, or any model: a folder, builtin:NAME, a .gguf file, a Hub id",
            metavar="RUN_OR_MODEL",
            autocompletion=complete.models,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="folder to write; it must not exist")],
    stage: Annotated[
        str, typer.Option(help="stage of the run; default: the gate's candidate, else the last model made")
    ] = "",
    merge: Annotated[bool, typer.Option("--merge", help="fold an adapter into its base")] = False,
    untie: Annotated[
        bool,
        typer.Option(
            "--untie", help="give the output head weights of its own, as a vLLM server on a CPU needs them"
        ),
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as the weights are")
    ] = None,
    push: Annotated[str | None, typer.Option(help="upload it to the Hub too", metavar="OWNER/NAME")] = None,
    public: Annotated[bool, typer.Option("--public", help="with --push: everybody may read it")] = False,
) -> None:
    """Write a folder that transformers, vLLM and TRL load as it is, with model card and verdict inside."""
    from kilter.api import export as export_
    from kilter.errors import UserError
    from kilter.release import export as exports

    if public and push is None:
        raise UserError(
            "--public", "(alone)", "goes with --push", "add --push OWNER/NAME, or leave --public out"
        )
    options: dict[str, Any] = {"stage": stage, "merge": merge, "untie": untie, "dtype": dtype, "push": push}
    made = export_(model, to, public=public, **options)
    for line in exports.describe(made):
        out.print(line, soft_wrap=True)
    out.print(styled("exported to [bold]{}[/]", to))
    if made.address:
        out.print(styled("uploaded to [bold]{}[/]", made.address))
