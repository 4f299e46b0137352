"""Progress and time left, on a terminal and off it, and the one format of a clock."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """A progress bar with loss, speed and time left on a terminal; a plain line every few seconds elsewhere."""

    def __init__(self, console: Console, title: str, total: int, start: int = 0, quiet: bool = False) -> None:
        self.console, self.title, self.total, self.quiet = console, title, total, quiet
        self._begin, self._start, self._last = time.monotonic(), start, 0.0
        self._progress: Progress | None = None
        if console.is_terminal and not quiet:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=False,
            )
            self._task = self._progress.add_task(title, total=total, completed=start, note="")
            self._progress.start()

    def update(self, done: int, note: str) -> None:
        """`done` of `total` are finished; `note` is a short line of numbers."""
        if self.quiet:
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if done == self.total or now - self._last >= 5:
            self._last = now
            rate = (done - self._start) / max(now - self._begin, 1e-9)
            left = f"  {clock((self.total - done) / rate)} left" if rate > 0 else ""
            self.console.print(
                f"{self.title} {done}/{self.total}  {note}{left}", highlight=False, soft_wrap=True
            )

    def close(self) -> None:
        """Stops drawing."""
        if self._progress is not None:
            self._progress.stop()


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour up."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
