"""One stage without a recipe: the same code as a recipe of one stage, in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter.artifacts import lock
from kilter.data.dataset import DataSpec
from kilter.errors import UserError
from kilter.manifest import Manifest
from kilter.pipeline.foreign import refuse_foreign_stage
from kilter.pipeline.report import write_report
from kilter.pipeline.runner import new_and_old, preflight, run_stage, stands
from kilter.screen import screen_of
from kilter.stages import Stage, Workspace
from kilter.stages.idle import refuse_idle_data
from kilter.stages.refs import references

DATA = "data"
"""Name of the one data set, the `$data` of a recipe."""


def workspace(
    stage: Stage,
    folder: Path,
    name: str,
    model: str,
    data: DataSpec | None = None,
    console: Console | None = None,
) -> Workspace:
    """The surroundings of a stage without a recipe: other data sets that it names are paths.

    Args:
        folder: the stage's own folder.
        name: what the stage is called in messages and in the manifest.
        model: what a recipe would call its model.
        data: what `$data` stands for.
        console: where progress goes; default: stderr.
    """
    known: dict[str, DataSpec] = {} if data is None else {DATA: data}
    for item in references(stage.spec):
        if item.ref.to == "data" and item.value is not None and not item.value.startswith("$"):
            known[item.value] = DataSpec(path=item.value)
    console = screen_of(console)
    return Workspace(folder, console, model, known, {name: stage}, name, alone=True, loaded={})


def run_alone(work: Workspace) -> Mapping[str, Any]:
    """Checks and runs the stage, or takes its result where nothing changed; returns its facts.

    Workers that accelerate or torchrun started work along; the first process alone keeps the manifest.

    Raises:
        UserError: the settings are wrong, or the folder holds a result of other settings.
    """
    check_alone(work)
    stage, folder = work.here, work.stage(work.name)
    with lock(folder):
        if int(os.environ.get("RANK", "0")) > 0:
            return _work_along(work)
        refuse_foreign_stage(work)
        preflight(work)
        facts = run_stage(work, changed=refuse_changed).facts
        if stage.maker.makes == "evaluation":
            write_report(folder)
        return facts


def check_alone(work: Workspace) -> None:
    """Raises UserError for settings that are unknown, or that do not go together."""
    stage = work.here
    stage.maker.check_names(stage.spec, work)
    stage.maker.check(stage.spec, work)
    refuse_idle_data(work)


def _work_along(work: Workspace) -> Mapping[str, Any]:
    """What every process but the first does: the same work, unless nothing is left to do."""
    entry, old = new_and_old(work)
    if old is not None and stands(work, entry, old):
        return old.facts
    return work.here.maker.run(work.here.spec, work, work.stage(work.name)).facts


def refuse_changed(work: Workspace, old: Manifest) -> None:
    """A finished model, or data begun with other settings, is kept; an evaluation is made anew.

    Nothing is written beside what another kind of stage made: one folder has one manifest.
    """
    makes = work.here.maker.makes
    if old.kind != work.here.kind:
        raise UserError(
            "out",
            str(work.stage(work.name)),
            f"holds what a stage of kind {old.kind} made",
            "choose another folder",
        )
    begun = makes == "data" and work.here.maker.begun(work.stage(work.name))
    if begun or (makes == "model" and old.status == "done"):
        raise _taken(work, _differences(work, old))


def _differences(work: Workspace, old: Manifest) -> list[str]:
    """What is another than on record. Raises UserError where the record does not fit its own key."""
    entry, _ = new_and_old(work)
    settings = [
        n for n, v in entry.config.items() if n not in work.here.maker.free and v != old.config.get(n)
    ]
    inputs = [n for n in entry.inputs | old.inputs if entry.inputs.get(n) != old.inputs.get(n)]
    found = [f"{n}: {old.config.get(n)} there, {entry.config[n]} here" for n in settings]
    found += [f"{n} is another" for n in inputs]
    if not found and entry.kind == old.kind:
        folder = work.stage(work.name)
        raise UserError(
            "file",
            str(folder / "manifest.json"),
            "is damaged: its key is not that of the settings and inputs that it lists",
            f"put it back, or remove {folder} to make its content anew",
        )
    return found


def _taken(work: Workspace, differences: Sequence[str] = ()) -> UserError:
    noun = {"model": "a finished model", "data": "data"}[work.here.maker.makes]
    # The first few say it: another version of Kilter may differ in many.
    named = f" ({'; '.join(differences[:3])})" if differences else ""
    return UserError(
        "out",
        str(work.stage(work.name)),
        f"holds {noun} of other settings{named}",
        "choose another folder, or remove it",
    )
