"""kilter merge: an adapter folded into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from kilter.cli import complete
from kilter.cli.app import command, err, out
from kilter.cli.options import collect, options_of, parameter, parameters, takes
from kilter.stages.merge import MergeSpec

OPTIONS = list(options_of(MergeSpec, skip=("model",)))
"""Every field of a merge stage but its model, which is an argument."""

OWN = [
    parameter(
        "model",
        str,
        typer.Argument(
            help="folder of an adapter that Kilter (or peft) saved; with --untie any model",
            autocompletion=complete.models,
        ),
        default=...,
    ),
    parameter(
        "target", Path, typer.Argument(help="folder to write: an ordinary Hugging Face model"), default=...
    ),
]


@command(
    "merge",
    examples=[
        "kilter merge runs/my-dpo/model merged/",
        "kilter merge HuggingFaceTB/SmolLM2-135M-Instruct served/ --untie",
    ],
)
@takes(*parameters(OPTIONS, own=OWN))
def merge(**values: Any) -> None:
    """Fold an adapter into its base model, for engines that load plain weights."""
    from kilter.api import merge as merge_

    merge_(values["model"], values["target"], err, **collect(OPTIONS, values))
    out.print(f"merged model written to {values['target']}")
