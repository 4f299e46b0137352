"""--dry-run: what would happen, with rows, tokens, steps, memory and time, before anything is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kilter.artifacts import lock
from kilter.pipeline.alone import check_alone
from kilter.pipeline.foreign import refuse_foreign_stage
from kilter.pipeline.runner import plan_of, preflight
from kilter.recipe import Recipe
from kilter.stages import StagePlan, Workspace


def plan(recipe: Recipe, console: Console | None = None) -> list[StagePlan]:
    """One line per stage. Opens all that a run would open before its first stage; never loads weights.

    Args:
        console: where the notes of the stages go; default: nowhere.

    Raises:
        UserError: what a stage will read, also the last one, cannot be opened.
    """
    run = recipe.workspace(Path("runs") / recipe.name, console or Console(quiet=True), loaded={})
    run.model(None)
    return plans(run)


def plan_alone(work: Workspace) -> list[StagePlan]:
    """The same for one stage without a recipe, as `run_alone` would run it; nothing stays written."""
    check_alone(work)
    with lock(work.folder):
        refuse_foreign_stage(work)
        return plans(work)


def plans(run: Workspace) -> list[StagePlan]:
    """One line for each stage whose settings go together. Raises UserError for what cannot be opened."""
    known = preflight(run)
    return [
        replace(known.get(name) or plan_of(run.at(name)), name=name, kind=stage.kind)
        for name, stage in run.stages.items()
    ]
