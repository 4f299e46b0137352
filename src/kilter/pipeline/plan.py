"""--dry-run: what would happen, with rows, tokens, steps, memory and time, before anything is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kilter.pipeline.runner import plan_of, preflight
from kilter.recipe import Recipe
from kilter.stages import StagePlan


def plan(recipe: Recipe, console: Console | None = None) -> list[StagePlan]:
    """One line per stage. Opens all that a run would open before its first stage; never loads weights.

    Args:
        console: where the notes of the stages go; default: nowhere.

    Raises:
        UserError: what a stage will read, also the last one, cannot be opened.
    """
    run = recipe.workspace(Path("runs") / recipe.name, console or Console(quiet=True), loaded={})
    run.model(None)
    known = preflight(run)
    return [
        replace(known.get(name) or plan_of(run.at(name)), name=name, kind=stage.kind)
        for name, stage in recipe.stages.items()
    ]
