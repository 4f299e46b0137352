"""Progress and time left, on a terminal and off it, and the one format of a clock."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # what needs a clock alone does not wait for rich
    from rich.console import Console
    from rich.progress import Progress as Bar

    from kilter.types import Request

EVERY = 5.0
"""Seconds between two lines off a terminal."""

EARLY, PATIENCE = 0.02, 60.0
"""Share of a task from which its pace is known, and seconds after which less will do."""

AGAIN = 10.0
"""Seconds between two lines that say what is waited for."""

_under_way: list[str] = []


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Names what takes its time, for `under_way`. Every few seconds a line on standard error says it too."""
    begin, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(AGAIN):
            print(f"  {what}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    _under_way.append(what)
    try:
        yield
    finally:
        _under_way.remove(what)
        over.set()


def under_way() -> str:
    """What this process does that takes its time; "" where nothing does."""
    return _under_way[-1] if _under_way else ""


class Progress(Protocol):
    """What a long task tells of itself."""

    def update(self, done: int, note: str = "") -> None:
        """So much is done; `note` is a short line of numbers."""
        ...

    def close(self) -> None:
        """The task has ended."""
        ...


class _Silent:
    def update(self, done: int, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


SILENT: Progress = _Silent()
"""Says nothing: for a caller that wants no progress, and for every process but the first."""


class Pace:
    """How long a task has taken, and how long it will take if it goes on as it did.

    Args:
        total: units of the whole task.
        start: units that an earlier process did.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.start, self._begin = total, start, time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begin

    def left(self, done: int) -> float | None:
        """Seconds until the end, None while nothing is known of the pace.

        The first answers of a batch are its shortest: a guess from two of 400 would be an hour too long.
        """
        made, taken = done - self.start, self.elapsed()
        if made <= 0 or (made < EARLY * (self.total - self.start) and taken < PATIENCE):
            return None
        return (self.total - done) * taken / made

    def text(self, done: int) -> str:
        """The time left, in the end the time taken; empty while nothing is known."""
        if done >= self.total:
            return f"in {clock(self.elapsed())}"
        left = self.left(done)
        return "" if left is None else f"{clock(left)} left"


class Display:
    """A progress bar with numbers and time left on a terminal; a plain line every few seconds elsewhere.

    Args:
        console: where it is shown.
        title: the task in a few words.
        total: units of the whole task.
        start: units that an earlier process did.
    """

    def __init__(self, console: Console, title: str, total: int, start: int = 0) -> None:
        self.console, self.title, self.pace = console, title, Pace(total, start)
        self._last = float("-inf")
        self._bar = self._draw(start) if console.is_terminal else None

    def _draw(self, start: int) -> Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        pace = self.pace

        class Clock(ProgressColumn):
            """Drawn several times a second, so that it ticks while a step takes its time."""

            def render(self, task: Task) -> Text:
                taken = "" if task.finished else clock(pace.elapsed())
                return Text(f"{taken}  {pace.text(int(task.completed))}".strip())

        columns = (
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            Clock(),
        )
        bar = Bar(*columns, console=self.console, transient=False)
        self._task = bar.add_task(self.title, total=pace.total, completed=start, note="")
        bar.start()
        return bar

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` are finished; `note` is a short line of numbers."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if done == self.pace.total or now - self._last >= EVERY:
            self._last = now
            parts = (f"{self.title} {done}/{self.pace.total}", note, self.pace.text(done))
            self.console.print("  ".join(filter(None, parts)), soft_wrap=True)

    def close(self) -> None:
        """Stops the bar, and leaves the terminal to others."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Nobody:
    """A seams.Listener that ignores everything; other listeners derive from it."""

    wants_text = False

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """Ignores the count."""

    def text(self, request: Request, index: int, piece: str) -> None:
        """Ignores the text."""


NOBODY = Nobody()


class OnDisplay(Nobody):
    """Shows how far a sampler is. done: samples that were finished before this call."""

    def __init__(self, display: Progress, done: int = 0) -> None:
        self.display, self.done = display, done

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """Shows the finished samples, and the rate of this call once it has an answer."""
        rate = f"  {tokens_per_second:.0f} tok/s" if samples and tokens_per_second is not None else ""
        self.display.update(self.done + samples, f"answers{rate}")


def clock(seconds: float | None) -> str:
    """Seconds as m:ss, or h:mm:ss from one hour up; nothing if they are unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
