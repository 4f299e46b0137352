"""The view of a run: a live screen where it is watched on a terminal, else a line now and then."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from kilter.batch import Batch
from kilter.progress import SILENT, Display, Progress
from kilter.seams import Hook, Step
from kilter.training.live import LiveDisplay
from kilter.training.monitors import EventLog

NOTES = (
    ("loss", "loss {:.3f}"),
    ("reward", "reward {:.3f}"),
    ("gold/score", "gold {:.3f}"),
    ("kl/sequence", "KL {:.2f}"),
    ("completions/mean_length", "length {:.0f}"),
    ("rewards/accuracies", "acc {:.2f}"),
    ("sampling/tokens_per_second", "sampling {:.0f} tok/s"),
    ("tokens_per_second", "training {:.0f} tok/s"),
)


def note(record: dict[str, Any]) -> str:
    """The numbers of a step in one line, for people."""
    return "  ".join(text.format(record[key]) for key, text in NOTES if key in record)


class ShowProgress(Hook):
    """A line of numbers with the time left, on a terminal or off it. `console` None shows nothing."""

    name = "display"

    def __init__(self, console: Console | None, title: str, total: int) -> None:
        self.console, self.title, self.total = console, title, total
        self._display: Progress = SILENT

    def before_run(self, done: int | None) -> None:
        """Begins to draw."""
        # Processes that are not the main one draw nothing.
        if self.console is not None:
            self._display = Display(self.console, self.title, self.total, done or 0)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Updates the bar with the step's numbers."""
        self._display.update(step.number, note(record))

    def close(self, error: BaseException | None) -> None:
        """Stops drawing."""
        self._display.close()


class ShowLive(Hook):
    """The live screen: numbers with their course, the last answer, the events."""

    name = "display"

    def __init__(self, console: Console, title: str, total: int, log: EventLog) -> None:
        self.console, self.title, self.total, self.log = console, title, total, log
        self._live: LiveDisplay | None = None

    def before_run(self, done: int | None) -> None:
        """Begins to draw."""
        # Not before the run: it takes the terminal over.
        self._live = LiveDisplay(self.console, self.title, self.total, done or 0)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Draws the whole screen again."""
        if self._live is not None:
            self._live.step(step.number, record, self.log.events, step.shown)

    def close(self, error: BaseException | None) -> None:
        """Leaves the last screen standing."""
        if self._live is not None:
            self._live.close()
