"""Interchangeable workers of one role.

Requests are shared out, sent again when a worker is lost, and counted once. All of it is logic over a
Backend and its clock: nothing here knows processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilter.cluster.backend import LOST, Backend, Call, Factory, Handle, Report, raised
from kilter.errors import KilterError, RoleLost, RunFailed
from kilter.progress import AGAIN

PULSE = 5.0
"""Seconds between two questions whether a worker makes progress."""

TURN = 1.0
"""Seconds after which a wait looks around, at most."""

CAUSE = 5.0
"""Seconds in which a worker's end is noticed after the others who worked with it."""

Tell = Callable[[str, str], None]
"""Takes an event: what happened, and the detail."""


@dataclass(eq=False)
class Request:
    """A call that may run twice; its answer counts once. taken: somebody has read the answer."""

    method: str
    arguments: tuple[Any, ...]
    report: Report | None = None
    attempts: int = 0
    taken: bool = False

    @property
    def done(self) -> bool:
        """Whether its answer is there."""
        return self.report is not None


@dataclass
class Restarts:
    """Replacements of workers that a run may still make, over all its pools."""

    left: int


@dataclass(eq=False)
class Slot:
    """A place of the pool, and who holds it now.

    Args:
        number: of the place.
        handle: the worker.
        running: its calls under way, in their order, each with its request.
        answered: requests whose answer nobody has read yet.
        pulse: the question whether it makes progress, where one is under way.
        seen: what it answered last.
        silent: seconds that somebody waited for it since it last made progress.
        asked_at: when it was last asked.
        begun: when it began to be busy.
        told: seconds of loading that were told of.
    """

    number: int
    handle: Handle
    running: list[tuple[Call, Request]] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    pulse: Call | None = None
    seen: Any = None
    silent: float = 0.0
    asked_at: float = 0.0
    begun: float = 0.0
    told: float = 0.0

    @property
    def loads(self) -> str:
        """What a worker that cannot serve yet takes its time for, as it is told of."""
        return f", {self.seen[0]}" if isinstance(self.seen, tuple) and self.seen[0] else ""


class Pool:
    """Workers that all answer alike.

    Args:
        backend: starts them.
        role: their name, for people and for placement.
        size: how many.
        make: makes the object that each of them holds.
        arguments: of `make`, the same for all.
        stall: seconds without progress after which a worker counts as lost.
        restarts: shared by all pools of a run.
        at_once: calls that a worker does at the same time.
        tell: takes what should be noted.
        together: whether they hold one state together, so that the loss of one is the loss of all.

    Raises:
        RunFailed: no worker is left, with the cause and the place of the last one. RoleLost, where nobody
            else has what it held.
    """

    def __init__(
        self,
        backend: Backend,
        role: str,
        size: int,
        make: Factory,
        arguments: Mapping[str, Any],
        stall: float = 300.0,
        restarts: Restarts | None = None,
        tell: Tell = lambda what, detail: None,
        at_once: int = 1,
        together: bool = False,
    ) -> None:
        self.together = together
        self.backend, self.role, self.stall = backend, role, stall
        self.restarts, self.tell = restarts or Restarts(0), tell
        self._make, self._arguments, self._at_once = make, dict(arguments), at_once
        self._greeting: dict[str, tuple[Any, ...]] = {}
        self._serving = False
        self.slots = [Slot(n, handle) for n, handle in enumerate(self._started(range(size)))]
        # They start together. Engines that load at once may together need more memory than there is.
        for slot in list(self.slots):
            ready = Request("ready", ())
            self._send(slot, ready)
            while not ready.done:
                self.poll(TURN)
            # What cannot be loaded once cannot be loaded again.
            if ready.report is not None and ready.report.kind not in ("", LOST):
                raise raised(ready.report)
        self._serving = True

    @property
    def size(self) -> int:
        """Workers that are there."""
        return len(self.slots)

    def _started(self, numbers: Sequence[int]) -> Sequence[Handle]:
        of_each = self._make, self._arguments, self._at_once
        return self.backend.start(self.role, numbers, *of_each, anew=self.together)

    def submit(self, method: str, *arguments: Any) -> Request:
        """Sends a request to the worker with the fewest calls under way."""
        request = Request(method, arguments)
        self._send(self._idlest(), request)
        return request

    def result(self, request: Request) -> Any:
        """Waits for an answer.

        Raises:
            KilterError: what the worker raised.
        """
        while not request.done:
            self.poll(TURN)
        assert request.report is not None
        request.taken = True
        # What the others say of one that was killed is not the cause, which comes a moment later.
        end = self.backend.now() + CAUSE
        busy: Callable[[], bool] = lambda: any(slot.running for slot in self.slots)
        while self.together and request.report.kind and self.backend.now() < end and busy():
            self.poll(TURN)
        if request.report.kind:
            raise raised(request.report)
        return request.report.value

    def every(self, method: str, *arguments: Any) -> list[Request]:
        """Sends the same call to each worker; see `each`."""
        return self.each(method, lambda number: arguments)

    def each(self, method: str, arguments: Callable[[int], tuple[Any, ...]]) -> list[Request]:
        """Sends a call to each worker, by its number, behind those that it has. None is sent again."""
        requests = [Request(method, arguments(slot.number)) for slot in self.slots]
        for slot, request in zip(list(self.slots), requests, strict=True):
            self._send(slot, request)
        return requests

    def ask_all(self, method: str, arguments: Callable[..., Any] = lambda number: ()) -> list[Any]:
        """Calls each worker as `each` does, and waits for all; of those together, for one that fails."""
        requests, failed = self.each(method, arguments), list[Request]()
        while not failed and not all(request.done for request in requests):
            self.poll(TURN)
            failed = [r for r in requests if self.together and r.report is not None and r.report.kind]
        return [self.result(request) for request in failed or requests]

    def greet(self, method: str, *arguments: Any) -> None:
        """What a fresh worker has to do before it serves, such as to take the present weights."""
        self._greeting[method] = arguments

    def replace(self, where: str, cause: str) -> list[Request]:
        """Gives up a worker that holds something else than it should; what it answered is asked again.

        Args:
            where: of the worker.
            cause: for people.

        Returns:
            What its successor is greeted with; nothing where the worker was lost meanwhile.
        """
        slot = next((s for s in self.slots if s.handle.where == where), None)
        if slot is None:
            return []
        for request in slot.answered:
            if not request.taken:
                request.report = None
        self._lose(slot, cause)
        successors = [s for s in self.slots if s.number == slot.number]
        return [r for s in successors for _, r in s.running if r.method in self._greeting]

    def poll(self, seconds: float = 0.0) -> None:
        """Takes what has come, looks after the workers, and waits for at most so long."""
        calls = [call for slot in self.slots for call, _ in slot.running]
        calls += [slot.pulse for slot in self.slots if slot.pulse is not None]
        if calls:
            begin = self.backend.now()
            self.backend.wait(calls, min(seconds, self.stall / 4))
            # While nobody looks nobody can know: only time of waiting counts.
            for slot in self.slots:
                slot.silent += self.backend.now() - begin
        for slot in list(self.slots):
            self._collect(slot)
        for slot in list(self.slots):
            self._look_after(slot)

    def close(self) -> None:
        """Ends all workers."""
        for slot in self.slots:
            slot.handle.kill()
        self.slots = []

    def _idlest(self) -> Slot:
        if not self.slots:
            raise self._empty("none was left")
        # A successor that still loads, a large model for minutes, is asked only where nobody else is.
        loads: Callable[[Slot], bool] = lambda slot: [r.method for _, r in slot.running[:1]] == ["ready"]
        return min(self.slots, key=lambda slot: (loads(slot), len(slot.running), slot.number))

    def _send(self, slot: Slot, request: Request) -> None:
        # A worker that had nothing to do was not idle for want of progress.
        if not slot.running:
            slot.silent, slot.begun = 0.0, self.backend.now()
        request.attempts += 1
        slot.running.append((slot.handle.call(request.method, *request.arguments), request))

    def _collect(self, slot: Slot) -> None:
        """Takes the answers of one worker that are there."""
        for call, request in [pair for pair in slot.running if pair[0].done()]:
            report = call.report()
            if report.kind == LOST:
                self._lose(slot, " ".join(map(str, report.arguments)))
                return
            # A worker that could not take the weights must not answer with the old ones.
            needed = [*self._greeting, *(["ready"] if self._serving else [])]
            if report.kind and request.method in needed:
                self._lose(slot, f"{request.method} failed ({' '.join(map(str, report.arguments))})")
                return
            slot.running.remove((call, request))
            slot.silent = 0.0
            # An answer that came twice counts once.
            request.report = request.report or report
            if request.method != "ready" and request.method not in self._greeting:
                slot.answered = [r for r in slot.answered if not r.taken] + [request]

    def _look_after(self, slot: Slot) -> None:
        """Asks a busy worker whether it makes progress, and gives up one that makes none for too long."""
        if slot not in self.slots:
            return
        now = self.backend.now()
        if slot.pulse is not None and slot.pulse.done():
            report, slot.pulse = slot.pulse.report(), None
            if report.kind == LOST:
                self._lose(slot, " ".join(map(str, report.arguments)))
                return
            if not report.kind and report.value != slot.seen:
                slot.seen, slot.silent = report.value, 0.0
        if not slot.running:
            return
        if slot.pulse is None and now - slot.asked_at >= min(PULSE, self.stall / 4):
            slot.pulse, slot.asked_at = slot.handle.control("pulse"), now
        if slot.running[0][1].method == "ready" and (seconds := now - slot.begun) - slot.told >= AGAIN:
            slot.told = seconds
            self.tell("loading", f"{slot.handle.where}{slot.loads}: {seconds:.0f} s")
        if slot.silent > self.stall:
            self._lose(slot, f"it made no progress for {self.stall:g} s{slot.loads}")

    def _lose(self, slot: Slot, cause: str) -> None:
        """Gives up a worker: its requests go to the others, and another one takes its place."""
        slot.handle.kill()
        self.slots.remove(slot)
        orphans = [r for r in (*slot.answered, *(r for _, r in slot.running)) if not r.done]
        slot.running, slot.answered, slot.pulse = [], [], None
        log = f" (its log: {slot.handle.log})" if slot.handle.log else ""
        detail = f"{slot.handle.where} is lost: {cause}{log}"
        self.tell("lost worker", detail)
        if self.together:
            self.close()
            raise self._empty(detail)
        # A greeting concerned the lost worker alone: its successor is greeted anew.
        again = [r for r in orphans if r.method not in self._greeting and r.method != "ready"]
        for request in orphans:
            if request not in again:
                request.report = Report(kind=LOST, arguments=(cause,), where=slot.handle.where)
        # At once, where there is somebody: to find a place for a successor may take a while.
        now, later = (again, []) if self.slots else ([], again)
        for request in now:
            self._send(self._idlest(), request)
        if self.restarts.left > 0:
            self.restarts.left -= 1
            try:
                self._replace(slot)
            except KilterError as error:
                self.tell("no replacement", str(error))
        if not self.slots:
            raise self._empty(detail)
        for request in later:
            self._send(self._idlest(), request)

    def _replace(self, slot: Slot) -> None:
        fresh = Slot(slot.number, self._started([slot.number])[0], asked_at=self.backend.now())
        self.slots.append(fresh)
        self._send(fresh, Request("ready", ()))
        for method, arguments in self._greeting.items():
            self._send(fresh, Request(method, arguments))

    def _empty(self, detail: str) -> RunFailed:
        kind = RoleLost if self.together else RunFailed
        return kind(
            f"No {self.role} worker is left ({detail})",
            "run the same command again to resume, with more `cluster.restarts` if the machines are sound",
        )
