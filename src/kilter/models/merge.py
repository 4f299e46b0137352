"""Adapters folded into their base, for engines that load plain weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilter.artifacts import whole_folder
from kilter.errors import UserError
from kilter.models.adapters import is_adapter
from kilter.models.adapters import untie as separate_head
from kilter.models.load import (
    MADE_BY,
    adapter_has_head,
    load_causal,
    load_reward,
    load_tokenizer,
)
from kilter.models.save import save


def check_merge(folder: Path, untie: bool, field: str = "model") -> None:
    """Raises UserError where there is nothing to merge, or no head to give weights of its own."""
    if not is_adapter(folder) and not untie:
        raise UserError(
            field,
            str(folder),
            "is not an adapter",
            "give a folder with adapter_config.json. Full weights need no merging",
        )
    if untie and is_adapter(folder) and adapter_has_head(folder):
        raise UserError(
            "untie",
            str(folder),
            "is a reward model, which has no output head over the vocabulary",
            "leave untie out",
        )


def merge(folder: Path, target: Path, untie: bool = False) -> None:
    """Writes an ordinary Hugging Face model.

    Args:
        folder: an adapter, or any model if `untie`.
        target: appears whole, or not at all.
        untie: gives the output head weights of its own.
    """
    tokenizer = load_tokenizer(folder)
    scores = is_adapter(folder) and adapter_has_head(folder)
    merged = load_reward(folder, tokenizer.pad_token_id) if scores else load_causal(folder)
    if untie:
        separate_head(merged)
    with whole_folder(target, what="the merged model", fix="free disk space, then run again") as partial:
        save(merged, tokenizer, partial)
        if (folder / MADE_BY).is_file():
            shutil.copy(folder / MADE_BY, partial / MADE_BY)
