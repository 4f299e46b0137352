"""Runs the stages of a recipe in order. An unchanged finished stage stands, an unfinished one goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter import chain
from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.artifacts import lock, set_aside, tidy, write_text
from kilter.errors import Exit, UserError
from kilter.manifest import Manifest
from kilter.pipeline.foreign import refuse_foreign_run, refuse_foreign_stage
from kilter.pipeline.inputs import check_inputs, inputs_of, sources_of
from kilter.pipeline.report import write_report
from kilter.progress import clock
from kilter.recipe import Recipe
from kilter.redaction import redact, redacted
from kilter.roles.replies import finish
from kilter.screen import styled
from kilter.stages import Outcome, StagePlan, Workspace
from kilter.stages.idle import unread
from kilter.stages.links import broken, check_links, content_hash
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

    def _write_recipe(self) -> None:
        """The resolved recipe. What the run's own pages were is said if anybody has changed them since."""
        for link in chain.note_breaks(self.folder):
            self.console.print(styled("[yellow]changed[/] {}: it is written anew", link))
        for name in chain.forget_removed(self.folder, self.recipe.stages):
            self.console.print(f"{name} was removed, and the recipe has it no more: its record goes too")
        path = self.folder / "recipe.yaml"
        with chain.noting(self.folder, path):
            write_text(path, recipes.dump(self.recipe))

    def _execute(self) -> Exit:
        run = self.recipe.workspace(self.folder, self.console, isolated=self.isolated)
        refuse_foreign_run(self.folder)
        for name in self.recipe.stages:
            refuse_foreign_stage(run.at(name))
        # Nothing is written before all that can be known to be wrong is known.
        run.model(None)
        preflight(run)
        self._write_recipe()
        code, begin = Exit.OK, time.monotonic()
        judged = any(stage.maker.judges_links for stage in self.recipe.stages.values())
        for number, name in enumerate(self.recipe.stages, start=1):
            work = run.at(name)
            title = f"[{number}/{len(self.recipe.stages)}] {name} ({work.here.kind})"
            entry = run_stage(work, title, lambda: write_report(self.folder))
            code = code or Exit(entry.facts.get("code", Exit.OK))
            # Monitors that stopped a training leave a doubt, which a gate settles where there is one.
            if entry.facts.get("stopped") and not judged:
                code = code or Exit.INCONCLUSIVE
        path = write_report(self.folder)
        tidy(self.folder)
        self.console.print(
            styled("\ndone; report: [bold]{}[/]   ({})", path, clock(time.monotonic() - begin))
        )
        return code


def preflight(run: Workspace) -> dict[str, StagePlan]:
    """Everything that can be known to be wrong before anything expensive: models, files, data, settings.

    Returns:
        The plans of later stages that were never begun. A plan reads all rows as its stage will, and so
        refuses what the stage would. The first stage does that itself before it costs anything.
    """
    run = run if run.alone or run.loaded is not None else replace(run, loaded={})
    for name, stage in run.stages.items():
        work = run.at(name)
        with work.naming():
            check_inputs(work)
            stage.maker.preflight(stage.spec, work)
        for note in stage.maker.notes(stage.spec, work):
            work.console.print(styled("[yellow]note[/] {}: {}", name, note), soft_wrap=True)
    for field in () if run.alone else unread(run):
        run.console.print(styled("[yellow]note[/] {}: no stage reads this data set", field), soft_wrap=True)
    later = [name for name in list(run.stages)[1:] if manifests.read(run.stage(name)) is None]
    return {name: plan_of(run.at(name)) for name in later}


def plan_of(work: Workspace) -> StagePlan:
    """What a stage would take. Raises UserError where the stage would refuse what it reads."""
    with work.naming():
        return work.here.maker.plan(work.here.spec, work)


def run_stage(
    work: Workspace,
    title: str = "",
    after: Callable[[], object] = lambda: None,
    changed: Callable[[Workspace, Manifest], Path | None] | None = None,
) -> Manifest:
    """One stage: taken as it is where nothing changed, else run to its end. Returns its manifest.

    Args:
        title: the stage in the console's words; without it only progress is shown.
        after: called when the stage has run, whether it succeeded or not.
        changed: what is done about a result of other settings or inputs, and where it lies then; default: it
            is set aside.
    """
    stage, folder = work.here, work.stage(work.name)
    entry, old = new_and_old(work)
    if old is not None and stands(work, entry, old):
        if (taken := _standing(work, old, title or work.name)) is not None:
            return taken
        old = None
    aside = None
    if old is not None and not _goes_on(work, entry, old) and any(folder.iterdir()):
        aside = (changed or _set_aside)(work, old)

    if not stage.maker.judges_links:
        check_links(work)
    if title:
        work.console.print(styled("[bold]▶ {}[/]", title))
    entry.sources = {redact(name): digest for name, digest in sources_of(work, entry.config).items()}
    chain.forget(work.folder, work.link(work.name))
    try:
        with manifests.life(folder, entry, lambda done: _record(work, done)):
            _keep_replies(aside, folder)
            with work.naming():
                outcome = stage.maker.run(stage.spec, work, folder)
            finish(folder)
            entry.outputs = _outputs(outcome, stage.maker.makes, folder)
            code = {"code": int(outcome.code)} if outcome.code else {}
            entry.facts = {**redacted(outcome.facts), **code}
    finally:
        after()
    if title:
        work.console.print(f"  done in {clock(entry.seconds)}")
    _summarise(work, entry.facts)
    return entry


def _record(work: Workspace, done: Manifest) -> None:
    """A stage that ends becomes a link of the run's chain."""
    chain.record(work.folder, work.link(work.name), done.text(), done.files)


def _standing(work: Workspace, old: Manifest, title: str) -> Manifest | None:
    """A finished stage as it is, if its files still are what it wrote. None: it has to be made anew."""
    folder = work.stage(work.name)
    manifests.tidy(folder, old)
    links = broken(work, [work.name])
    if links and not work.here.maker.judges_links:
        return _broken(work, old, links, title)

    # A verdict costs nothing: one that was edited is given once more.
    if links:
        work.console.print(
            styled("[yellow]changed[/] {}: {}; it is made anew", title, links[0]), soft_wrap=True
        )
        work.console.print(
            f"  the old one is in {set_aside(folder, work.folder / '.superseded')}", soft_wrap=True
        )
        return None
    work.console.print(styled("[green]✓[/] {}: done, unchanged, taken from {}", title, folder))
    _summarise(work, old.facts)
    return old


def _broken(work: Workspace, old: Manifest, links: Sequence[chain.Break], title: str) -> Manifest:
    """A finished stage whose files are no longer what it wrote: nobody reads them, and a gate below says no.

    Raises:
        UserError: no gate stands below, which could say it.
    """
    fix = f"put it back, or remove {work.stage(work.name)} to make it anew"
    later = list(work.stages)[list(work.stages).index(work.name) + 1 :]
    if not any(work.stages[name].maker.judges_links for name in later):
        more = f", and {len(links) - 1} more files are broken" if len(links) > 1 else ""
        raise UserError(
            work.where().rstrip(".") or "out",
            "(finished)",
            f"is not what its stage wrote: {links[0]}{more}",
            fix,
        )
    work.console.print(styled("[red]✗[/] {}: done, but it is not what its stage wrote:", title))
    for link in links:
        work.console.print(f"  {link}", soft_wrap=True)
    work.console.print(f"  {fix[0].upper()}{fix[1:]}.", soft_wrap=True)
    return old


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
    """The hashes that the stage gave; where it gave none for what it makes, that of the artifact."""
    found = dict(outcome.outputs)
    if makes not in found and (digest := content_hash(folder, makes)) is not None:
        found[makes] = digest
    return found


def _set_aside(work: Workspace, old: Manifest) -> Path:
    """Config or inputs changed: the old artifact is kept under .superseded/, which is returned."""
    folder = work.stage(work.name)
    target = set_aside(folder, work.folder / ".superseded")
    work.console.print(
        f"  {folder.name}: its configuration or inputs changed; the old result is in {target}",
    )
    return target


def _keep_replies(aside: Path | None, folder: Path) -> None:
    """Paid replies say themselves what they answer, so that no other setting makes them worthless."""
    if aside is None:
        return
    for path in sorted(aside.glob("*.sqlite*")):
        shutil.copy2(path, folder / path.name)
