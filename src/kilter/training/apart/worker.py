"""What every worker of a run answers, whatever its role."""

from __future__ import annotations

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
