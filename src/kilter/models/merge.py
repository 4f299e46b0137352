"""Adapters folded into their base, for engines that load plain weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilter.artifacts import whole_folder
from kilter.errors import UserError
from kilter.models.adapters import is_adapter
from kilter.models.adapters import untie as separate_head
from kilter.models.load import MADE_BY, adapter_has_head, is_classifier, load_causal, load_reward
from kilter.models.save import name_dtype, rounded, save
from kilter.models.tokenizer import load_tokenizer


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
    with whole_folder(target, what="the merged model", fix="free disk space, then run again") as partial:
        rewrite(folder, partial, untie)


def rewrite(folder: Path, target: Path, untie: bool = False, dtype: str | None = None) -> None:
    """Loads a model, folds its adapter in if it has one, and saves it as safetensors.

    Args:
        folder: a policy or a reward model.
        target: a folder that exists.
        untie: gives the output head weights of its own.
        dtype: of the saved weights; default: as they are loaded.
    """
    tokenizer = load_tokenizer(folder)
    model = load_reward(folder, tokenizer.pad_token_id) if scores(folder) else load_causal(folder)
    if untie:
        separate_head(model)
    # Rounding comes last: an adapter is folded in full precision.
    save(
        model,
        tokenizer,
        target,
        **({} if dtype is None else {"state_dict": rounded(model.state_dict(), dtype)}),
    )
    if dtype is not None:
        name_dtype(target / "config.json", dtype)
    if (folder / MADE_BY).is_file():
        shutil.copy(folder / MADE_BY, target / MADE_BY)


def scores(folder: Path) -> bool:
    """Whether a folder holds a reward model, whole or as an adapter."""
    return adapter_has_head(folder) if is_adapter(folder) else is_classifier(folder)
