"""reached.jsonl: the rows of each step, so that a row's history can tell whether anything learned from it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from kilter.artifacts import append_lines, cut_lines, read_lines
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
        """Lines after the checkpoint are cut, to be written again; lines that are lacking are written."""
        if self.path is None:
            return
        # An older Kilter kept no record, and one with a gap would say that its rows taught nothing.
        whole = itertools.count(1)
        cut_lines(self.path, lambda row: row["step"] == next(whole) and row["step"] <= (done or 0))
        held = sum(1 for _ in read_lines(self.path))
        append_lines(self.path, map(self._line, range(held + 1, self._last(done or 0) + 1)))

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Appends the step's rows."""
        if self.path is not None and step.number == self._last(step.number):
            append_lines(self.path, [self._line(step.number)])

    def _last(self, number: int) -> int:
        """The last step of the first pass, up to this one."""
        return min(number, self.source.steps_per_epoch)

    def _line(self, number: int) -> dict[str, Any]:
        """A step's rows. They follow from the seed, so that they may be written later."""
        return {"step": number, "rows": [row_mark(encoded.group) for encoded in self.source.rows(number)]}
