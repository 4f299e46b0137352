"""A loss or gradient that is not finite ends the run; the step was not taken."""

from __future__ import annotations

import math
from typing import Any

from kilter.batch import Batch
from kilter.errors import RunFailed
from kilter.seams import Hook, Step
from kilter.training.checkpoint import Checkpoints
from kilter.training.monitors import Event, EventLog


class FiniteGuard(Hook):
    """Raises RunFailed, which names the last good checkpoint."""

    name = "finite"

    def __init__(self, run: str, checkpoints: Checkpoints, log: EventLog | None = None) -> None:
        self.run, self.checkpoints, self.log = run, checkpoints, log

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Notes the event before it ends the run."""
        # The engine did not step on such a gradient, so that the weights are still good.
        if math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]):
            return
        found = f"loss {record['loss']}, gradient norm {record['grad_norm']}"
        if self.log is not None:
            action = "the step was not taken; the run ended"
            self.log.add(Event(step.number, 0, "stop", "nan", found, step.number, "certain", action))
        raise RunFailed(
            f"{self.run}: {found} at step {step.number}; the step was not taken",
            "lower learning_rate, or use dtype: float32",
            f"Last good checkpoint: {self.checkpoints.latest() or 'none yet'}",
        )
