"""What a run folder holds, read from files alone: finished, failed, or under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kilter import manifest as manifests
from kilter.artifacts import read_json, read_lines
from kilter.manifest import Manifest
from kilter.progress import clock
from kilter.redaction import redact
from kilter.release.subjects import baseline_of, subjects
from kilter.validation import load_yaml


@dataclass(frozen=True)
class StageFacts:
    """A stage of the run as its manifest tells it."""

    name: str
    folder: Path
    entry: Manifest

    @property
    def kind(self) -> str:
        """Kind of the stage, such as train."""
        return self.entry.kind


@dataclass(frozen=True)
class Evidence:
    """Everything that a page about a run is made of.

    Args:
        run: folder of the run, or of one stage.
        stages: in the order of the recipe.
        gate: what the last gate.json holds.
        evaluation: what the evaluation holds that the gate read; without a gate the last one.
        evaluated: folder of that evaluation.
        recipe: text of recipe.yaml.
    """

    run: Path
    stages: Sequence[StageFacts]
    gate: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    evaluated: Path | None
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.resolve().name

    @property
    def compared(self) -> list[str]:
        """Models that stand against the baseline: the gate's candidate, else all others."""
        if self.gate is not None:
            return [str(self.gate["candidate"])]
        known = self.evaluation or {"models": {}, "baseline": None}
        return [n for n in known["models"] if n != known["baseline"]]

    @property
    def candidate(self) -> str | None:
        """The model that the page is about; None where nothing was compared."""
        return self.compared[0] if self.compared else None

    @property
    def undecided(self) -> bool:
        """Whether the recipe has a gate that has not run."""
        stages = self.settings.get("stages") or {}
        return self.gate is None and any(isinstance(s, dict) and s.get("gate") for s in stages.values())

    def under_way(self) -> str:
        """What the run is doing now, in a sentence; "" where no stage is running."""
        for stage in self.stages:
            if stage.entry.status == "running":
                return f"Stage {stage.name} has begun and has not ended{_step(stage.folder)}."
        return ""


def gather(run: Path) -> Evidence:
    """Reads a run folder, or the folder of one stage."""
    path = run / "recipe.yaml"
    recipe = redact(path.read_text(encoding="utf-8")) if path.is_file() else ""
    settings = _settings(recipe)
    stages = _stages(run, settings)
    folders = [stage.folder for stage in stages]
    gate = _last(folders, "gate.json")
    evaluated, evaluation = _evaluation(folders, gate)
    return Evidence(run, stages, gate, evaluation, evaluated, recipe, settings)


def stage_folders(run: Path) -> list[Path]:
    """The folders of a run's stages; the run's own folder where it is one stage without a recipe."""
    return [run] if (run / "manifest.json").is_file() else [p.parent for p in run.glob("*/manifest.json")]


def _settings(recipe: str) -> Mapping[str, Any]:
    """The recipe as data; nothing where somebody broke the file, which the page then shows as it is."""
    try:
        found = load_yaml(recipe) if recipe else {}
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _stages(run: Path, settings: Mapping[str, Any]) -> list[StageFacts]:
    entries = {folder: manifests.read(folder) for folder in stage_folders(run)}
    found = [StageFacts(f.resolve().name, f, entry) for f, entry in entries.items() if entry is not None]
    order = {name: i for i, name in enumerate(settings.get("stages") or {})}
    return sorted(found, key=lambda s: (order.get(s.name, len(order)), s.entry.started))


def _step(folder: Path) -> str:
    """How far a training is; "" where no step has been taken."""
    last: Mapping[str, Any] = max(read_lines(folder / "metrics.jsonl"), key=lambda r: r["step"], default={})
    if not last:
        return ""
    plan = read_json(folder / "train.json") if (folder / "train.json").is_file() else {}
    total = plan.get("total_steps")
    left = "" if not total else _left(int(total) - last["step"], last.get("step_time"))
    return f": step {last['step']}{f' of {total}' if total else ''}{left}"


def _left(steps: int, seconds: float | None) -> str:
    return f", {clock(steps * seconds)} left at the pace of the last step" if seconds and steps > 0 else ""


def _last(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    found = [folder / name for folder in folders if (folder / name).exists()]
    return read_json(found[-1], keys=("conditions", "verdict", "candidate")) if found else None


def _evaluation(
    folders: Sequence[Path], gate: Mapping[str, Any] | None
) -> tuple[Path | None, dict[str, Any] | None]:
    """Folder and evaluation that the gate read, which need not be the last ones; without a gate the last."""
    found: list[tuple[Path, dict[str, Any]]] = [
        (folder, read_json(path, keys=("models", "baseline")))
        for folder in folders
        if (path := folder / "evaluation.json").exists()
    ]
    if gate is not None:
        found = [pair for pair in found if _was_read(gate, pair[1])] or found
    return found[-1] if found else (None, None)


def _was_read(gate: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    """Whether a verdict can be of this evaluation: the same prompts, the same baseline, the same weights."""
    candidate = subjects(evaluation).get(gate["candidate"], {})
    found = (evaluation["data_hash"], baseline_of(evaluation), candidate.get("model_hash"))
    return found == (gate["data_hash"], gate["baseline"], gate["model_hash"])
