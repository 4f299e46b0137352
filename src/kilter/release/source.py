"""The model that a run is about, and what is known of how it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kilter import chain
from kilter.errors import UserError, nearest
from kilter.hashes import file_hash
from kilter.models.fingerprint import model_hash
from kilter.models.resolve import resolve
from kilter.release.evidence import Evidence, StageFacts, gather, stage_folders

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME on the Hub."""


@dataclass(frozen=True)
class Source:
    """A model and what is known of how it was made.

    Args:
        folder: of the weights.
        reference: what the user wrote.
        run: the run that made it; None for a model from elsewhere.
        stage: of that run.
        verdict: what gate.json holds, if the gate judged these very weights.
        broken: links of the run's chain that do not hold.
    """

    folder: Path
    reference: str
    run: Evidence | None = None
    stage: StageFacts | None = None
    verdict: Mapping[str, Any] | None = None
    broken: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the model: of its run and stage, or of its folder."""
        if self.run is None or self.stage is None:
            return self.folder.resolve().name
        alone = self.stage.folder == self.run.run
        return self.stage.name if alone else f"{self.run.name}-{self.stage.name}"


def find(reference: str, stage: str = "") -> Source:
    """The model that a run is about, or the one that is named.

    Args:
        reference: a run folder, a stage's folder, a model's folder, or a model as every command takes it.
        stage: of the run; default: the gate's candidate, else the last stage that made a model.

    Raises:
        UserError: the run made no model, or no such stage.
    """
    place = Path(reference)
    if place.is_dir() and stage_folders(place) and not (place / "config.json").is_file():
        facts, found = _of_run(place, stage)
    elif stage:
        raise UserError(
            "--stage", stage, "is a stage of a run, and no run was given", "give the run's folder"
        )
    else:
        folder = resolve(reference)
        stage_folder = folder.resolve().parent
        run = stage_folder.parent
        if folder.name != "model" or not (stage_folder / "manifest.json").is_file():
            return Source(folder, reference)
        facts = gather(run if (run / "recipe.yaml").is_file() else stage_folder)
        found = next(s for s in facts.stages if s.folder.resolve() == stage_folder)
    folder = found.folder / "model"
    source = Source(folder, reference, facts, found)
    broken = [str(link) for link in chain.breaks(chain.root_of(facts.run) or facts.run, file_hash)]
    return replace(source, verdict=_verdict(facts, folder), broken=broken)


def _of_run(place: Path, stage: str) -> tuple[Evidence, StageFacts]:
    """The run, and the stage whose model is meant."""
    facts = gather(place)
    parent = place.resolve().parent
    # A stage's own folder was given: its run stands around it.
    if facts.stages[0].folder == place and (parent / "recipe.yaml").is_file():
        facts, stage = gather(parent), place.resolve().name
    makers = {s.name: s for s in facts.stages if (s.folder / "model").is_dir()}
    wanted = stage or (facts.candidate if facts.candidate in makers else next(reversed(makers), ""))
    if not makers:
        raise UserError("RUN", str(place), "holds no model", "give a run with a train stage that has ended")
    if wanted not in makers:
        raise UserError("--stage", wanted, "names no stage that made a model", nearest(str(wanted), makers))
    return facts, makers[str(wanted)]


def _verdict(facts: Evidence, folder: Path) -> Mapping[str, Any] | None:
    """The gate's verdict if it is about these very weights."""
    gate = facts.gate
    return gate if gate is not None and gate["model_hash"] == model_hash(folder)[:16] else None
