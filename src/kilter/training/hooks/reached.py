"""reached.jsonl: the rows of each step, so that a row's history can tell whether anything learned from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, cut_lines
from kilter.batch import Batch
from kilter.data.lineage import REACHED, row_mark
from kilter.seams import Hook, Step
from kilter.training.sources.fixed import FixedSource


class Reached(Hook):
    """Writes the rows of each step of the first pass, those of all processes; later passes hold the same.

    `folder`: None in processes that write nothing.
    """

    name = "reached"

    def __init__(self, folder: Path | None, source: FixedSource) -> None:
        self.path, self.source = folder and folder / REACHED, source

    def before_run(self, done: int | None) -> None:
        """Lines after the checkpoint are cut, for they will be written again."""
        if self.path is not None:
            cut_lines(self.path, lambda row: row["step"] <= (done or 0))

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Appends the step's rows."""
        if self.path is not None and step.number <= self.source.steps_per_epoch:
            rows = [row_mark(encoded.group) for encoded in self.source.rows(step.number)]
            append_lines(self.path, [{"step": step.number, "rows": rows}])
