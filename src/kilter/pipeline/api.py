"""Runs a recipe from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kilter import recipe as recipes
from kilter.errors import Exit
from kilter.pipeline.runner import Run


def run(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
    console: Console | None = None,
) -> Exit:
    """kilter.run("recipes/quickstart.yaml"): all stages into runs/<name>/. Returns the exit code, the gate's included."""
    loaded = recipes.load(recipe, overrides)
    return Run(loaded, Path(runs) / loaded.name, console or Console()).execute()
