"""Ctrl-C and SIGTERM, heard at the end of a step."""

from __future__ import annotations

import contextlib
import logging
import signal
from types import FrameType
from typing import Any

log = logging.getLogger("kilter")


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to stop after the current step; a second Ctrl-C stops at once."""

    received = False

    def __enter__(self) -> StopRequest:
        self._old: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
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
