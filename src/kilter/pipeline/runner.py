"""Runs the stages of a recipe in order. An unchanged finished stage stands, an unfinished one goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.artifacts import lock, set_aside, tidy, write_text
from kilter.errors import Exit, UserError
from kilter.manifest import Manifest
from kilter.pipeline.inputs import check_inputs, inputs_of
from kilter.pipeline.report import write_report
from kilter.progress import clock
from kilter.recipe import Recipe
from kilter.screen import styled
from kilter.stages import Outcome, Workspace
from kilter.stages.links import altered, check_links, content_hash, file_hashes
from kilter.stages.outcome import ARTIFACT, Makes


@dataclass
class Run:
    """A recipe and its folder runs/<name>/."""

    recipe: Recipe
    folder: Path
    console: Console
    isolated: bool = False
    """Each train stage in a process of its own, so that its peak memory is its own."""

    def execute(self) -> Exit:
        """Runs what is not done. Writes report.html after every stage, so that a failed run has one too."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "kilter run",
                os.environ["WORLD_SIZE"],
                "does not run in several processes",
                "start it once, and give its train stages `processes: N`",
            )
        with lock(self.folder):
            return self._execute()

    def _execute(self) -> Exit:
        write_text(self.folder / "recipe.yaml", recipes.dump(self.recipe))
        run = self.recipe.workspace(self.folder, self.console, isolated=self.isolated)
        run.model(None)
        preflight(run)
        code, begin = Exit.OK, time.monotonic()
        for number, name in enumerate(self.recipe.stages, start=1):
            work = run.at(name)
            title = f"[{number}/{len(self.recipe.stages)}] {name} ({work.here.kind})"
            entry = run_stage(work, title, lambda: write_report(self.folder))
            code = code or Exit(entry.facts.get("code", Exit.OK))
        path = write_report(self.folder)
        tidy(self.folder)
        self.console.print(
            styled("\ndone; report: [bold]{}[/]   ({})", path, clock(time.monotonic() - begin))
        )
        return code


def preflight(run: Workspace) -> None:
    """Everything that can be known to be wrong before anything expensive: models, files, data, settings."""
    run = run if run.alone or run.loaded is not None else replace(run, loaded={})
    for name, stage in run.stages.items():
        check_inputs(run.at(name))
        stage.maker.preflight(stage.spec, run.at(name))


def run_stage(
    work: Workspace,
    title: str = "",
    after: Callable[[], object] = lambda: None,
    changed: Callable[[Workspace, Manifest], None] | None = None,
) -> Manifest:
    """One stage: taken as it is where nothing changed, else run to its end. Returns its manifest.

    Args:
        title: the stage in the console's words; without it only progress is shown.
        after: called when the stage has run, whether it succeeded or not.
        changed: what is done about a result of other settings or inputs; default: it is set aside.
    """
    stage, folder = work.here, work.stage(work.name)
    entry, old = new_and_old(work)
    if old is not None and stands(work, entry, old):
        manifests.tidy(folder, old)
        text = styled("[green]✓[/] {}: done, unchanged, taken from {}", title or work.name, folder)
        work.console.print(text)
        # The result stands, for nothing asks for another one; whoever reads the file should know.
        for path in altered(folder, stage.maker.makes, old):
            advice = f"put it back, or remove {folder} to make it anew"
            work.console.print(styled("  [yellow]warn[/] {} is not what the stage wrote: {}", path, advice))
        _summarise(work, old.facts)
        return old
    if old is not None and not _goes_on(work, entry, old) and any(folder.iterdir()):
        (changed or _set_aside)(work, old)

    if not stage.maker.judges_links:
        check_links(work)
    if title:
        work.console.print(styled("[bold]▶ {}[/]", title))
    try:
        with manifests.life(folder, entry):
            outcome = stage.maker.run(stage.spec, work, folder)
            entry.outputs = _outputs(outcome, stage.maker.makes, folder)
            entry.facts = {**outcome.facts, **({"code": int(outcome.code)} if outcome.code else {})}
    finally:
        after()
    if title:
        work.console.print(f"  done in {clock(entry.seconds)}")
    _summarise(work, entry.facts)
    return entry


def new_and_old(work: Workspace) -> tuple[Manifest, Manifest | None]:
    """The manifest of a run that begins now, and the one that an earlier run left."""
    config = work.here.spec.model_dump(mode="json", by_alias=True)
    inputs = inputs_of(work, config)
    entry = manifests.new(work.name, work.here.kind, config, inputs, work.here.maker.free)
    return entry, manifests.read(work.stage(work.name))


def stands(work: Workspace, entry: Manifest, old: Manifest) -> bool:
    """Whether the earlier result holds: finished with the same key, its artifact still there."""
    artifact = ARTIFACT.get(work.here.maker.makes)
    whole = artifact is None or (work.stage(work.name) / artifact).exists()
    return old.status == "done" and old.key == entry.key and whole


def _goes_on(work: Workspace, entry: Manifest, old: Manifest) -> bool:
    """Whether what lies there is of this very stage: the same key, or unfinished with a file mended since."""
    if old.status == "done":
        return old.key == entry.key
    maker = work.here.maker
    mended = {f"file:{path}" for path in maker.mendable(work.here.spec)}
    now, then = (_key(e, mended, maker.free) for e in (entry, old))
    return now == then


def _key(entry: Manifest, mended: set[str], free: frozenset[str]) -> str:
    """The key of a stage without the files that may be mended."""
    inputs = {name: value for name, value in entry.inputs.items() if name not in mended}
    return manifests.new(entry.stage, entry.kind, entry.config, inputs, free).key


def _summarise(work: Workspace, facts: Mapping[str, Any]) -> None:
    for line in work.here.maker.summary(facts):
        work.console.print(line)


def _outputs(outcome: Outcome, makes: Makes, folder: Path) -> dict[str, str]:
    """The hashes of its files, those that the stage gave, and where it gave none, that of its artifact."""
    found = {**file_hashes(folder, makes), **outcome.outputs}
    if makes not in found and (digest := content_hash(folder, makes)) is not None:
        found[makes] = digest
    return found


def _set_aside(work: Workspace, old: Manifest) -> None:
    """Config or inputs changed: the old artifact is kept under .superseded/, never overwritten."""
    folder = work.stage(work.name)
    target = set_aside(folder, work.folder / ".superseded")
    work.console.print(
        f"  {folder.name}: its configuration or inputs changed; the old result is in {target}",
    )
