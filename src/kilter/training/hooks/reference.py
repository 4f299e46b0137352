"""Iterative training: the reference becomes the present policy every few steps."""

from __future__ import annotations

from typing import Any

from kilter.batch import Batch
from kilter.seams import Hook, LogProbs, Step


class RefreshReference(Hook):
    """The moved weights are part of the checkpoint, for they stand nowhere else."""

    name = "reference"

    def __init__(self, reference: LogProbs, every: int) -> None:
        self.reference, self.every = reference, every

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Copies the policy's weights."""
        # After the step and before its evidence, as iterative DPO has it.
        if step.number % self.every == 0:
            self.reference.refresh()

    def state(self) -> dict[str, Any]:
        """The reference's weights."""
        return self.reference.state() or {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.reference.restore(state)
