"""kilter merge: an adapter folded into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilter.cli import complete
from kilter.cli.app import command, err, out


@command(
    examples=[
        "kilter merge runs/my-dpo/model merged/",
        "kilter merge HuggingFaceTB/SmolLM2-135M-Instruct served/ --untie",
    ]
)
def merge(
    model: Annotated[
        str,
        typer.Argument(
            help="folder of an adapter that Kilter (or peft) saved; with --untie any model",
            autocompletion=complete.models,
        ),
    ],
    target: Annotated[Path, typer.Argument(help="folder to write: an ordinary Hugging Face model")],
    untie: Annotated[
        bool,
        typer.Option(
            "--untie", help="give the output head weights of its own, as a vLLM server on a CPU needs them"
        ),
    ] = False,
) -> None:
    """Fold an adapter into its base model, for engines that load plain weights."""
    from kilter.api import merge as merge_

    merge_(model, target, err, untie=untie)
    out.print(f"merged model written to {target}", highlight=False)
