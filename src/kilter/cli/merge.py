"""kilter merge: an adapter folded into its base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from kilter.artifacts import whole_folder
from kilter.cli import complete
from kilter.cli.app import command, out
from kilter.errors import UserError


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
    from kilter.models.adapters import is_adapter
    from kilter.models.load import (
        MADE_BY,
        adapter_has_head,
        load_causal,
        load_reward,
        load_tokenizer,
        quiet_transformers,
        resolve,
        separate_head,
    )

    folder = resolve(model)
    if not is_adapter(folder) and not untie:
        raise UserError(
            "model",
            model,
            "is no adapter",
            "give a folder with adapter_config.json; full weights need no merging",
        )
    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another folder, or remove it")
    tokenizer = load_tokenizer(folder)
    scores = is_adapter(folder) and adapter_has_head(folder)
    if scores and untie:
        raise UserError(
            "--untie",
            model,
            "is a reward model, which has no output head over the vocabulary",
            "leave --untie out",
        )
    merged = load_reward(folder, tokenizer.pad_token_id) if scores else load_causal(folder)
    if untie:
        separate_head(merged)
    with whole_folder(target, what="the merged model", fix="free disk space, then run again") as partial:
        with quiet_transformers():
            merged.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
        if (folder / MADE_BY).is_file():
            shutil.copy(folder / MADE_BY, partial / MADE_BY)
    out.print(f"merged model written to {target}", highlight=False)
