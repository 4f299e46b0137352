"""Ctrl-C and SIGTERM, heard at the end of a step."""

from __future__ import annotations

import contextlib
import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from kilter.batch import Batch
from kilter.errors import Interrupted
from kilter.seams import Hook, Step
from kilter.training.hooks.checkpoints import SaveCheckpoints

log = logging.getLogger("kilter")


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to stop after the current step; a second Ctrl-C stops at once."""

    received = False

    def __enter__(self) -> StopRequest:
        self._old: dict[int, Any] = {}
        # Only the main thread may set handlers; elsewhere a run ends as its host wants.
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        log.warning("stopping after this step (again to stop at once)")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Interrupts(Hook):
    """Saves and raises Interrupted at the end of the step in which any process was asked to stop."""

    name = "interrupts"

    def __init__(self, signals: StopRequest, saver: SaveCheckpoints, out: Path) -> None:
        self.signals, self.saver, self.out = signals, saver, out

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """All processes stop together."""
        if self.saver.engine.max(int(self.signals.received)):
            self.saver.save(step.number)
            raise Interrupted(
                f"Stopped after step {step.number} of {self.saver.total}; "
                f"everything is saved in {self.out}.\n"
                "To resume: run the same command again."
            )
