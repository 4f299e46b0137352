"""Checkpoints on schedule, pinned ones where a signal was named, and a last one when a source fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilter.batch import Batch
from kilter.errors import RunFailed
from kilter.seams import Hook, Step
from kilter.training.checkpoint import Checkpoints, write_state
from kilter.training.parallel.engine import Engine


class SaveCheckpoints(Hook):
    """Saves the whole run; the last hook, so that a checkpoint holds a step with all that followed from it.

    Args:
        checkpoints: folder and schedule.
        state: everything that a resumed run needs. Every rank calls it, with the folder for its shards.
        meta: what the checkpoint says of itself.
        engine: only its main process writes.
        total: steps of the run; after the last one the model itself is written.
    """

    name = "checkpoints"

    def __init__(
        self,
        checkpoints: Checkpoints,
        state: Callable[[Path], dict[str, Any]],
        meta: Callable[[], dict[str, Any]],
        engine: Engine,
        total: int,
    ) -> None:
        self.checkpoints, self.run_state, self.meta = checkpoints, state, meta
        self.engine, self.total = engine, total
        self._last = 0
        self._whole = False

    def save(self, step: int) -> None:
        """Writes a checkpoint. Every rank must call it."""

        # Every process takes part, for shards and collectives; one of them writes what all share.
        def write(path: Path) -> None:
            state = self.run_state(path.parent)
            if self.engine.is_main:
                write_state(path.parent, state)

        self.checkpoints.save(step, write, self.meta(), self.engine.is_main)

    def before_update(self, batch: Batch) -> Batch:
        """From here to the end of the step the state is between two steps."""
        self._whole = False
        return batch

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Saves when the time since the last checkpoint is worth it."""
        # All save or none: any process may find that it is time.
        if step.number < self.total and self.engine.max(int(self.checkpoints.due(step.number))):
            self.save(step.number)
        self._last, self._whole = step.number, True

    def close(self, error: BaseException | None) -> None:
        """Where a sampler or a reward failed no step is half done: what was learned so far is kept."""
        # A step that broke in the middle left weights and position at odds: that is not saved.
        if self._whole and isinstance(error, RunFailed):
            with contextlib.suppress(RunFailed):
                self.save(self._last)


class Pins(Hook):
    """The state in which a cheap signal first named something is kept, whatever becomes of the run."""

    name = "pins"

    def __init__(self, saver: SaveCheckpoints, named: Callable[[], bool]) -> None:
        self.saver, self.named = saver, named

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Pins a checkpoint of this step when any process has seen something."""
        engine = self.saver.engine
        # Signals are the same everywhere, but a collective makes sure of it.
        if engine.max(int(self.named())):
            self.saver.save(step.number)
            self.saver.checkpoints.pin(step.number, engine.is_main)
