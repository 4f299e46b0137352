"""Settings of data sets that no stage of a run would read, and data sets that none reads."""

from __future__ import annotations

from collections.abc import Iterator

from kilter.data.dataset import DataSpec
from kilter.data.worlds.registry import is_world
from kilter.stages.kind import Stage, Workspace
from kilter.types import Shape
from kilter.validation import refuse_idle

READ_IN: dict[str, tuple[set[Shape], str]] = {
    "pairs.rule": ({"pairs"}, "nothing here learns from pairs"),
    "pairs.min_margin": ({"pairs", "unpaired"}, "nothing here learns from pairs or labels"),
    "threshold": ({"unpaired"}, "nothing here learns from labels of single answers"),
    "safety": (
        {"prompts", "rollouts"},
        "nothing here asks these prompts, as evaluations do",
    ),
}
"""Settings of a data set, the shapes that read each, and why no other does."""


def refuse_idle_data(run: Workspace) -> None:
    """Raises UserError for a setting of a data set that none of the stages with this data set reads."""
    for name, spec in run.data_sets.items():
        shapes = _shapes(run, name)
        for setting, (reading, why) in READ_IN.items() if shapes else ():
            if not shapes & reading:
                _refuse(run, name, spec, setting, why)
        held = spec.heldout or any(part.heldout for part in spec.parts)
        if shapes and not held and not any(s.maker.sets_aside(s.spec) for s, _ in _readers(run, name)):
            _refuse(run, name, spec, "split_by", "no prompt is held out")
            # A world is drawn by the same seed.
            if not any(is_world(part.path) for part in spec.sources()):
                _refuse(run, name, spec, "seed", "no prompt is held out")


def unread(run: Workspace) -> list[str]:
    """Data sets that a recipe describes and no stage reads, as its messages call them."""
    sources = {n for name in run.data_sets for n in run.made_by(f"${name}")}
    idle = [n for n in run.data_sets if n not in sources and not any(True for _ in _readers(run, n))]
    return [run.data_field(name) for name in idle]


def _refuse(run: Workspace, name: str, spec: DataSpec, setting: str, why: str) -> None:
    head, _, leaf = setting.rpartition(".")
    where = run.data_field(name, setting).removesuffix(leaf)
    refuse_idle(getattr(spec, head) if head else spec, where, [(leaf, why, "leave it out")])


def _readers(run: Workspace, name: str) -> Iterator[tuple[Stage, str]]:
    """(stage, its field) wherever a data set is named."""
    for stage in run.stages.values():
        for item in stage.maker.reads(stage.spec):
            if item.ref.to == "data" and item.value is not None and item.value.removeprefix("$") == name:
                yield stage, item.field


def _shapes(run: Workspace, name: str) -> set[Shape]:
    """The shapes in which the stages read a data set; none where a stage may read it in others too."""
    found: set[Shape] = set()
    for stage, field in _readers(run, name):
        if not stage.maker.one_shape(stage.spec):
            return set()
        shape = stage.maker.shape(stage.spec, field)
        found |= set() if shape is None else {shape}
    return found
