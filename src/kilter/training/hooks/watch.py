"""The monitors in the loop: cheap signals each step, their events on the console, and the stop."""

from __future__ import annotations

from typing import Any, Literal

from rich.console import Console

from kilter.batch import Batch
from kilter.runtime import peak_memory_gb
from kilter.screen import styled
from kilter.seams import Hook, Step, Stop
from kilter.training.monitors import EnergyProbe, Event, EventLog, Monitors
from kilter.training.parallel.engine import Engine


class Watch(Hook):
    """Hands each step's answers to the monitors.

    Their events are on disk beside the checkpoint, not in it.
    """

    name = "monitors"

    def __init__(self, monitors: Monitors, energy: EnergyProbe | None, engine: Engine) -> None:
        self.monitors, self.energy, self.engine = monitors, energy, engine
        self._seen = 0

    def before_run(self, done: int | None) -> None:
        """Events of steps that will be done again are cut."""
        self.monitors.log.load(done)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Adds memory, energy and the monitors' signals."""
        record["memory/peak_gb"] = max(self.engine.gather(peak_memory_gb()))
        # Over the tokens of all processes. Nothing is known where no group of any had a gradient.
        if self.energy is not None:
            total, count = (sum(parts) for parts in zip(*self.engine.gather(self.energy.take()), strict=True))
            record |= {"energy_loss": total / count} if count else {}
        # What the source told of this step is in the log already, and is not the monitors' news.
        self._seen = len(self.monitors.log.events)
        record |= self.monitors.update(step.number, record, step.sampled)

    def named(self) -> bool:
        """Whether a cheap signal became an event in this step."""
        return any(event.tier == 1 for event in self.monitors.log.events[self._seen :])

    def state(self) -> dict[str, Any]:
        """Reference values and streaks."""
        return self.monitors.state()

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.monitors.restore(state)


class Announce(Hook):
    """Prints events where no live screen shows them: the monitors' after each step, the source's at once.

    Args:
        log: of the events.
        console: to print on.
        engine: of the learner.
        watched: whether monitors read the log back, and a terminal shows its events live.
    """

    name = "announce"

    def __init__(self, log: EventLog, console: Console, engine: Engine, watched: bool = True) -> None:
        self.log, self.console, self.engine, self.is_main = log, console, engine, engine.is_main
        self.watched, self.live = watched, watched and console.is_terminal
        self._printed = 0
        self.apart = False
        """Whether processes have workers of their own, of which the others know nothing."""
        self._own: list[tuple[int, str, str]] = []

    def tell_own(self, step: int, what: str, detail: str) -> None:
        """Notes what this process alone saw. The one that keeps the log hears of it when the step ends."""
        if self.is_main:
            self.tell(step, what, detail)
        else:
            self._own.append((step, what, detail))

    def tell(self, step: int, what: str, detail: str, level: Literal["info", "warn"] = "warn") -> None:
        """Notes what a source saw while it made a step."""
        # All processes see the same faults; one of them keeps the log.
        if not self.is_main:
            return
        self.log.add(
            Event(step, 1, level, what, f"{what}: {detail}", step, "certain", "noted; the run goes on")
        )
        if not self.live:
            line = styled("  [yellow]{}[/]: {}" if level == "warn" else "  {}: {}", what, detail)
            self.console.print(line, soft_wrap=True)
        self._printed = len(self.log.events)

    def before_run(self, done: int | None) -> None:
        """What is in the log was printed when it was written."""
        if not self.watched:
            self.log.load(done)
        self._printed = len(self.log.events)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """The events that were added since."""
        if self.apart and self.engine.world > 1:
            others, self._own = self.engine.gather(self._own), []
            for noted in (noted for own in others for noted in own):
                self.tell(*noted)
        # On a terminal the live screen shows them.
        if not self.live and self.is_main:
            for event in self.log.events[self._printed :]:
                colour = "red" if event.level == "stop" else "yellow"
                self.console.print(
                    styled(f"  [{colour}]{{}}[/] {{}}", event.level, event.line()), soft_wrap=True
                )
        self._printed = len(self.log.events)


class Verdict(Hook):
    """Ends the run when the monitors say so; it stands behind what records the step."""

    name = "verdict"

    def __init__(self, monitors: Monitors, engine: Engine) -> None:
        self.monitors, self.engine = monitors, engine

    def before_run(self, done: int | None) -> Stop | None:
        """A verdict of the gold source stands when the run is taken up again."""
        return self._stop() if self.monitors.stop is not None else None

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> Stop | None:
        """All processes end together."""
        return self._stop() if self.engine.max(int(self.monitors.stop is not None)) else None

    def _stop(self) -> Stop:
        # Only the process that saw it knows why; the others end with it.
        reason = self.monitors.stop or "another process asked for it"
        return Stop(reason, self.monitors.fix, fails=not self.monitors.gold.entries)
