"""Workers in this process, on a clock that moves only when somebody waits.

Without latencies every call is done as soon as somebody looks. Tests declare how long calls take, and when
workers die or hang: a thousand schedules then take a second.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilter.cluster.backend import LOST, Factory, Report, run

Latency = Callable[[str, int, str, tuple[Any, ...]], float]
"""Seconds that a call takes, by role, number of the worker, method and arguments."""


@dataclass(eq=False)
class InlineCall:
    """A call that ends at its time. `end`: that time; None while its worker hangs."""

    target: InlineHandle
    method: str
    arguments: tuple[Any, ...]
    end: float | None
    found: Report | None = None

    def done(self) -> bool:
        """Whether its time has come; the call is then made."""
        self.target.backend.settle()
        return self.found is not None

    def report(self) -> Report:
        """How it ended."""
        assert self.found is not None, "the call is still under way"
        return self.found


@dataclass(eq=False)
class InlineHandle:
    """A worker in this process. `hangs`: it takes calls and never ends one, as a stopped process does."""

    backend: InlineBackend
    role: str
    number: int
    held: Any
    busy_until: float = 0.0
    at_once: int = 1
    dead: bool = False
    hangs: bool = False
    calls: list[InlineCall] = field(default_factory=list)
    log: str = ""
    name: str = ""
    address: str = "127.0.0.1"

    @property
    def where(self) -> str:
        """Role and number."""
        return f"{self.role} {self.number}"

    def call(self, method: str, *arguments: Any) -> InlineCall:
        """Sends a call behind the earlier ones."""
        latency = self.backend.latency(self.role, self.number, method, arguments)
        if self.at_once > 1:
            return self._begin(method, arguments, self.backend.now() + latency)
        self.busy_until = max(self.backend.now(), self.busy_until) + latency
        return self._begin(method, arguments, self.busy_until)

    def control(self, method: str, *arguments: Any) -> InlineCall:
        """Sends a call past the others."""
        return self._begin(method, arguments, self.backend.now())

    def kill(self) -> None:
        """What is under way never ends, and nobody is to wait for it."""
        self.dead = True
        for call in self.calls:
            call.found = call.found or Report(kind=LOST, arguments=("it was killed",), where=self.where)
        self.calls = []

    def _begin(self, method: str, arguments: tuple[Any, ...], end: float) -> InlineCall:
        call = InlineCall(self, method, arguments, None if self.hangs else end)
        if self.dead:
            call.found = Report(kind=LOST, arguments=("it is dead",), where=self.where)
        else:
            self.calls.append(call)
            self.backend.expect(call)
        return call


class InlineBackend:
    """Holds all workers in this process.

    Args:
        latency: seconds that calls take; none without it.
    """

    def __init__(self, latency: Latency = lambda role, number, method, arguments: 0.0) -> None:
        self.latency, self._now, self.address, self.host = latency, 0.0, "", "127.0.0.1"
        self.handles: list[InlineHandle] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def start(
        self,
        role: str,
        numbers: Sequence[int],
        make: Factory,
        arguments: Mapping[str, Any],
        at_once: int = 1,
        anew: bool = False,
    ) -> list[InlineHandle]:
        """Makes the objects here and now."""
        for n in numbers:
            self.handles.append(InlineHandle(self, role, n, make(**arguments), self._now, at_once))
        return self.handles[len(self.handles) - len(numbers) :]

    def share(self, value: Any) -> Callable[[], Any]:
        """The value as it is now, which its owner may go on to change."""
        kept = copy.deepcopy(value)
        return lambda: kept

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Does something when the clock gets there, such as to kill a worker."""
        heapq.heappush(self._events, (seconds, next(self._count), what))

    def expect(self, call: InlineCall) -> None:
        """Makes a call when its time has come."""
        if call.end is not None:
            self.at(call.end, lambda: self._make(call))

    def _make(self, call: InlineCall) -> None:
        # A worker that was killed or stopped meanwhile does nothing any more.
        if call.found is None and not call.target.hangs:
            call.found = run(call.target.held, call.method, call.arguments, call.target.where)
            call.target.calls.remove(call)

    def settle(self) -> None:
        """Everything happens whose time has come, in order."""
        while self._events and self._events[0][0] <= self._now:
            heapq.heappop(self._events)[2]()

    def wait(self, calls: Sequence[Any], seconds: float) -> None:
        """Moves the clock to the first call that ends, or by so many seconds."""
        end = self._now + seconds
        self.settle()
        while not any(call.found for call in calls) and self._events and self._events[0][0] <= end:
            self._now = self._events[0][0]
            self.settle()
        if not any(call.found for call in calls):
            self._now = max(self._now, end)

    def pass_time(self, seconds: float) -> None:
        """Somebody else works for so long; workers go on meanwhile."""
        end = self._now + seconds
        while self._events and self._events[0][0] <= end:
            self._now = max(self._now, self._events[0][0])
            self.settle()
        self._now = end

    def now(self) -> float:
        """Seconds since the start."""
        return self._now

    def release(self) -> None:
        """Nobody is kept: another learner makes its own."""
        self.close()

    def close(self) -> None:
        """All workers are dead."""
        for handle in self.handles:
            handle.kill()
