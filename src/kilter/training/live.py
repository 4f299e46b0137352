"""The live screen of an online run: numbers with their recent course, the last answer, the events."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kilter.progress import Pace, clock
from kilter.screen import styled
from kilter.training.monitors.events import Event

BARS = "▁▂▃▄▅▆▇█"
ROWS = (
    ("reward", "reward", "{:.3f}"),
    ("gold", "gold/score", "{:.3f}"),
    ("KL (nats)", "kl/sequence", "{:.2f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("length", "completions/mean_length", "{:.0f}"),
    ("zero-variance groups", "frac_reward_zero_std", "{:.0%}"),
    ("cut off", "completions/clipped_ratio", "{:.0%}"),
    ("loss", "loss", "{:.4f}"),
)


def sparkline(values: Sequence[float], width: int = 28) -> str:
    """The last `width` values as bars between their minimum and maximum."""
    shown = list(values)[-width:]
    low, high = min(shown), max(shown)
    # A flat course has no scale of its own.
    if high - low < 1e-12:
        return BARS[3] * len(shown)
    return "".join(BARS[min(7, int(8 * (v - low) / (high - low)))] for v in shown)


class LiveDisplay:
    """The screen of an online run: the course of its numbers, the last answer and the events."""

    def __init__(self, console: Console, title: str, total: int, start: int = 0) -> None:
        self.console, self.title, self.pace, self.done = console, title, Pace(total, start), start
        self.history: dict[str, deque[float]] = {}
        self.record: Mapping[str, Any] = {}
        self.events: list[Event] = []
        self.sample = ""
        self._live = Live(console=console, refresh_per_second=4, transient=False, get_renderable=self.render)
        self._live.start()

    def step(self, done: int, record: Mapping[str, Any], events: Sequence[Event], sample: str) -> None:
        """Keeps the step's numbers, events and answer for the next drawing."""
        self.done, self.record, self.events, self.sample = done, record, list(events), sample
        # A metric may be missing in a step; its course then has a gap and no zero.
        for _, key, _ in ROWS:
            if isinstance(record.get(key), int | float):
                self.history.setdefault(key, deque(maxlen=200)).append(float(record[key]))

    def render(self) -> RenderableType:
        """Draws numbers, curves, events and the last answer as one screen."""
        head = Table.grid(padding=(0, 2), expand=False)
        head.add_row(
            styled("[bold]{}", self.title),
            ProgressBar(self.pace.total, self.done, width=30),
            f"{self.done}/{self.pace.total}",
            f"{clock(self.pace.elapsed())} gone",
            self.pace.text(self.done),
        )
        numbers = Table.grid(padding=(0, 2))
        for label, key, form in ROWS:
            course = self.history.get(key)
            if course:
                numbers.add_row(
                    styled("[dim]{}", label), form.format(course[-1]), Text(sparkline(course), style="cyan")
                )
        r = self.record
        # Speeds and memory stand apart: they say how it runs, not how it goes.
        speed = Table.grid(padding=(0, 2))
        for label, key in (("sampling", "sampling/tokens_per_second"), ("training", "tokens_per_second")):
            if key in r:
                speed.add_row(styled("[dim]{}", label), f"{r[key]:.0f} tok/s")
        if "memory/peak_gb" in r:
            speed.add_row(styled("[dim]memory"), f"{r['memory/peak_gb']:.1f} GB peak")
        if "num_tokens" in r:
            speed.add_row(styled("[dim]tokens"), f"{r['num_tokens']:,}")
        body = Table.grid(padding=(0, 4))
        body.add_row(numbers, speed)
        parts: list[RenderableType] = [head, body]
        if self.sample:
            parts.append(
                Panel(
                    Text(self.sample[:400]),
                    title="last answer",
                    title_align="left",
                    border_style="dim",
                    width=min(100, self.console.width),
                )
            )
        # The newest ones; all are in events.jsonl.
        for event in self.events[-4:]:
            parts.append(
                Text(event.line(), style={"stop": "bold red", "warn": "yellow"}.get(event.level, "dim"))
            )
        return Group(*parts)

    def close(self) -> None:
        """Leaves the last screen standing."""
        self._live.stop()
