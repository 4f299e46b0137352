"""What every worker of a run answers, whatever its role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilter.types import Request


class Progress:
    """Counts what a worker has done, so that others see whether it goes on. A Listener that shows nothing."""

    wants_text = False

    def __init__(self) -> None:
        self.count = 0

    def tick(self) -> None:
        """Something was done."""
        self.count += 1

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """Called with each decoding step."""
        self.count += 1

    def text(self, request: Request, index: int, piece: str) -> None:
        """Never called: it wants no text."""


class Worker:
    """What all roles answer."""

    def __init__(self) -> None:
        self.progress = Progress()

    def ready(self) -> None:
        """Returns when the worker can serve."""

    def again(self) -> bool:
        """Whether it can serve a learner that begins anew as it is, and forgets the one that is gone."""
        return True

    def pulse(self) -> int:
        """A number that grows with the work that was done."""
        return self.progress.count


def cut(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Items in order, cut into at most `count` runs of nearly equal length."""
    count = max(1, min(count, len(items)))
    size, longer = divmod(len(items), count)
    found, start = [], 0
    for n in range(count if items else 0):
        end = start + size + (n < longer)
        found.append(list(items[start:end]))
        start = end
    return found
