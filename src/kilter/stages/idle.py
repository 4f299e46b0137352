"""Settings of data sets that no stage of a run would read."""

from __future__ import annotations

from kilter.stages.kind import Workspace
from kilter.types import Shape
from kilter.validation import refuse_idle

READ_IN: dict[str, tuple[set[Shape], str]] = {
    "pairs.rule": ({"pairs"}, "nothing here learns from pairs"),
    "pairs.min_margin": ({"pairs", "unpaired"}, "nothing here learns from pairs or labels"),
    "threshold": ({"unpaired"}, "nothing here learns from labels of single answers"),
}
"""Settings of a data set, the shapes that read each, and why no other does."""


def refuse_idle_data(run: Workspace) -> None:
    """Raises UserError for a setting of a data set that none of the stages with this data set reads."""
    for name, spec in run.data_sets.items():
        shapes = _shapes(run, name)
        for setting, (reading, why) in READ_IN.items() if shapes else ():
            head, _, leaf = setting.rpartition(".")
            if not shapes & reading:
                where = run.data_field(name, setting).removesuffix(leaf)
                refuse_idle(getattr(spec, head) if head else spec, where, [(leaf, why, "leave it out")])


def _shapes(run: Workspace, name: str) -> set[Shape]:
    """The shapes in which the stages read a data set; none where a stage may read it in others too."""
    found: set[Shape] = set()
    for stage in run.stages.values():
        for item in stage.maker.reads(stage.spec):
            if item.ref.to != "data" or item.value is None or item.value.removeprefix("$") != name:
                continue
            if not stage.maker.one_shape(stage.spec):
                return set()
            shape = stage.maker.shape(stage.spec, item.field)
            found |= set() if shape is None else {shape}
    return found
