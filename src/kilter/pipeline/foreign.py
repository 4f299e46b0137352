"""Folders that hold what Kilter would write and has not written: they are refused, never written over."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from kilter import chain
from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.errors import UserError
from kilter.stages import Workspace
from kilter.validation import TAKEN

MODEL = ("config.json", "adapter_config.json")
"""What makes a folder a model's."""


def refuse_foreign_stage(work: Workspace) -> None:
    """Raises UserError where a stage would write over files that no manifest accounts for."""
    folder = work.stage(work.name)
    # The manifest is the first file of a stage, also of one that was killed.
    if manifests.read(folder) is not None:
        return
    field = "out" if work.alone else f"stages.{work.name}"
    # A model's folder with a run in it would be two models under one name.
    if held := next((name for name in MODEL if (folder / name).is_file()), None):
        raise UserError(field, str(folder), f"holds a model ({held})", "choose another folder")
    names = _names(folder)
    # A chain stands beside what a run made: nobody else has files of these names there.
    if len(names) > 1 and any((place / chain.CHAIN).is_file() for place in (folder, folder.parent)):
        raise UserError(
            field,
            str(folder),
            f"has lost its manifest.json: {', '.join(sorted(names)[:3])} of a run are there without it",
            "put manifest.json back, or remove this folder to make the stage anew",
        )
    _refuse(folder, names, field)


def refuse_foreign_run(folder: Path) -> None:
    """Raises UserError where a recipe would write over files of a folder that is no run of Kilter's."""
    if (folder / chain.CHAIN).exists() or chain.stages_below(folder):
        return
    found = _names(folder)
    # A kill may come between the recipe of a run and its chain. That recipe is written as Kilter writes it.
    with contextlib.suppress(UserError):
        path = folder / "recipe.yaml"
        if path.is_file() and recipes.dump(recipes.load(path)) == path.read_text(encoding="utf-8"):
            found.discard(path.name)
    _refuse(folder, found, "--runs")


def _names(folder: Path) -> set[str]:
    """What lies there under a name that Kilter writes or removes."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {path.name for path in found if path.name.casefold() in TAKEN}


def _refuse(folder: Path, names: Collection[str], field: str) -> None:
    if names:
        raise UserError(
            field,
            str(folder),
            f"holds {', '.join(sorted(names)[:3])}, which Kilter would write and has not written here",
            "choose another folder, or move these files away",
        )
