"""A process that asks an endpoint for a command, and outlives it until the calls under way are kept.

A call that was sent is paid for, whatever becomes of who sent it. So the command that reads the replies is
not the process that asks for them. Where the command is killed, its courier waits for the calls under way,
keeps their replies, and ends; whoever opens the file of replies next waits for it, and asks nothing twice.
The two speak in lines of JSON over a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import queue
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from kilter.errors import KilterError, RunFailed, made_again
from kilter.roles.chat import SamplerChat
from kilter.roles.paid import PaidChat, Rate
from kilter.roles.replies import BEFORE_FINISH, Process, Replies
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import SamplerKind
from kilter.types import Ask, Choice, Reply, SamplingParams, Usage

log = logging.getLogger("kilter")

T = TypeVar("T", Reply, Choice)

PROGRAM = "from kilter.roles import courier; courier.main()"

TICK = 0.5
"""Seconds between two looks at whether the command lives. A fork of it would keep the pipe open for it."""

ENDS = 30.0
"""Seconds that a command waits for its courier to end, which takes an idle one a tenth of one."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What a courier has to know, plain enough for JSON.

    Args:
        sampler: settings of who is asked.
        params: how every reply is sampled.
        where: field of those settings, for messages.
        identity, rate, payer, at_once, chunk: of the PaidChat that it asks for.
        cache, named: the file that keeps the replies, and the setting that names it.
        command: the process that reads them.
        environment: its variables, the key among them. They go through the pipe, and into no file.
    """

    sampler: Mapping[str, Any]
    params: Mapping[str, Any]
    where: str
    identity: Mapping[str, Any]
    rate: Mapping[str, float]
    payer: str
    at_once: int
    chunk: int
    cache: str
    named: str
    command: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def chat(self) -> PaidChat:
        """The chat that asks, opened."""
        rate = Rate(**self.rate)
        spec = SamplerKind.model_validate(self.sampler)
        params = SamplingParams(**{**self.params, "stop": tuple(self.params["stop"])})
        made = PaidChat(
            lambda: SamplerChat(build(SamplerContext(spec, _no_weights), self.where), params),
            self.identity,
            params.max_new_tokens,
            rate=rate,
            replies=Replies(
                Path(self.cache), self.named, who=self.payer, price=rate.of, command=Process(**self.command)
            ),
            chunk=self.chunk,
            payer=self.payer,
        )
        _ = made.chat  # what is wrong with the settings is said before anything is asked
        return made


def _no_weights() -> tuple[Any, Any]:
    raise AssertionError("an endpoint asks for no weights")


def by_courier(chat: PaidChat, sampler: SamplerKind, params: SamplingParams, where: str) -> PaidChat:
    """A chat whose questions a courier asks, so that a kill of this process costs no reply.

    Args:
        chat: counts and limits what is asked. What asks in its place is started with the first question.
        sampler: settings of the endpoint.
        params: how every reply is sampled.
        where: field of those settings, for messages.
    """
    replies = chat.replies
    if replies is None:
        raise ValueError("a courier needs a file to keep replies in")
    errand = Errand(
        sampler.model_dump(mode="json"),
        asdict(params),
        where,
        chat.identity,
        asdict(chat.rate),
        chat.payer,
        chat.at_once,
        chat.chunk,
        str(replies.path.absolute()),
        replies.field,
    )

    def send() -> Courier:
        courier = Courier(replace(errand, command=asdict(Process.now()), environment=dict(os.environ)))
        replies.before_close(courier.close)
        return courier

    return replace(chat, open=send, keeps=False)


class _Line:
    """A courier's process, and what is asked of it and not answered yet. Threads may share it."""

    def __init__(self) -> None:
        self.waiting: dict[int, Future[Any]] = {}
        # A full pipe holds up who writes; who listens must not wait for that.
        self.lock, self._writing = threading.Lock(), threading.Lock()
        self.ended, self._numbers, self._owner = False, itertools.count(), os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self._owner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # It reads the modules that this process reads, and none that happens to lie in the folder.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONSAFEPATH": "1"},
            # Ctrl-C is for the command, which waits for the calls under way.
            start_new_session=True,
        )
        self._dropped: queue.SimpleQueue[int | Future[None] | None] = queue.SimpleQueue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        threading.Thread(target=self._close_dropped, daemon=True).start()

    def send(self, told: Mapping[str, Any]) -> tuple[int, Future[Any]]:
        """Sends one line; gives its number, and the answer as the future's result or its error."""
        if os.getpid() != self._owner:
            raise RunFailed(
                "A fork asks an endpoint by what its parent has opened",
                "make the judge or critic in the fork",
            )
        answer: Future[Any] = Future()
        with self.lock:
            if self.ended:
                raise self.lost()
            number = next(self._numbers)
            self.waiting[number] = answer
        # Where the courier has just died, `_listen` fails all that waits.
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"number": number, **told}).encode() + b"\n")
            self.process.stdin.flush()
        return number, answer

    def _listen(self) -> None:
        """Hands on what the courier says, until it ends."""
        assert self.process.stdout is not None
        try:
            with self.process.stdout as lines:
                for line in lines:
                    if line.endswith(b"\n"):  # else it died within the line
                        self._hear(json.loads(line))
        finally:  # whatever went wrong, nobody waits for ever
            self._dropped.put(None)
            with self.lock:
                self.ended, waiting = True, list(self.waiting.values())
            for answer in waiting:
                answer.set_exception(self.lost())

    def _hear(self, told: Mapping[str, Any]) -> None:
        if "log" in told:
            level, message = told["log"]
            return log.log(level, "%s", message)
        with self.lock:
            answer = self.waiting.pop(told["number"])
        if "error" not in told:
            return answer.set_result(told["found"])
        kind, arguments = told["error"]
        return answer.set_exception(made_again(kind, arguments) or _broken(f"failed ({arguments[0]})"))

    def drop(self, errand: int) -> None:
        """Has the courier close a file soon.

        It takes no lock: garbage is collected in any thread, at any time.
        """
        self._dropped.put(errand)

    def _close_dropped(self) -> None:
        while (one := self._dropped.get()) is not None:
            if isinstance(one, Future):
                one.set_result(None)
                continue
            with contextlib.suppress(KilterError):
                self.send({"close": one})[1].result()

    def settle(self) -> None:
        """Waits until what was dropped is closed."""
        closed: Future[None] = Future()
        self._dropped.put(closed)
        deadline = time.monotonic() + ENDS
        while not self.ended and not closed.done() and time.monotonic() < deadline:
            wait([closed], TICK)

    def lost(self) -> RunFailed:
        """What is said where the courier is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS)
        return _broken(f"ended (exit code {self.process.returncode})")

    def end(self) -> None:
        """Lets the courier go: it ends when no call is under way."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS)
            self.listener.join(ENDS)


def _broken(how: str) -> RunFailed:
    return RunFailed(
        f"The process that asks the endpoint has {how}",
        "run the same command again: what was paid for is kept",
    )


class _Lines:
    """The courier of this process: all that it asks goes through one."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A fork has a courier of its own.
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def line(self) -> _Line:
        """The courier, started where there is none."""
        with self._lock:
            if self._line is None or self._line.ended:
                self._line = _Line()
                atexit.register(self._line.end)
            return self._line

    @property
    def mine(self) -> _Line | None:
        """The courier that there is."""
        return self._line


_LINES = _Lines()


def _settle() -> None:
    if (line := _LINES.mine) is not None:
        line.settle()


BEFORE_FINISH.append(_settle)


class Courier:
    """Chat by a process of its own, which keeps the replies. Threads may share it.

    Args:
        errand: whom to ask, and where replies are kept.

    Raises:
        UserError: the settings, the key or the file are wrong.
        RunFailed: the process did not start.
    """

    def __init__(self, errand: Errand) -> None:
        self._line = _LINES.line()
        self._errand, started = self._line.send({"errand": asdict(errand)})
        started.result()
        self._forgotten = weakref.finalize(self, self._line.drop, self._errand)
        self._forgotten.atexit = False  # the whole courier ends then

    def close(self) -> None:
        """Has the courier close its file, when the calls under way are kept."""
        # In a fork, and after a courier's death, there is nothing to close.
        line = self._line
        if self._forgotten.detach() and line.process.returncode is None and line is _LINES.mine:
            _, closed = line.send({"close": self._errand})
            try:
                closed.result(ENDS)
            except TimeoutError as error:
                raise _broken(f"not closed its file for {ENDS:g} seconds") from error

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """See seams.Chat."""
        return self._asked(asks, None, Reply)

    def choose(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Choice]:
        """See seams.Chat."""
        return self._asked(asks, list(options), Choice)

    def _asked(self, asks: Sequence[Ask], options: list[str] | None, kind: type[T]) -> list[T]:
        # What only a script reads, and what only a person reads, stays here.
        plain = [{"messages": [dict(m) for m in a.messages], "id": a.id, "note": a.note} for a in asks]
        _, answer = self._line.send({"of": self._errand, "asks": plain, "options": options})
        return [_read(kind, row) for row in answer.result()]


def _read(kind: type[T], row: Mapping[str, Any]) -> T:
    """A Reply or a Choice from JSON."""
    lists = {k: tuple(v) for k, v in row.items() if isinstance(v, list)}
    return kind(**{**row, **lists, "usage": Usage(**row["usage"])})


class _Outbox(logging.Handler):
    """Where a courier speaks. After the command's death nobody listens, and nothing is lost by that."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()

    def say(self, told: Mapping[str, Any]) -> None:
        """One line."""
        line = json.dumps(told).encode() + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError):
            while line:  # a process that is stopped in between has written a part
                line = line[self._file.write(line) :]

    def emit(self, record: logging.LogRecord) -> None:
        """Hands a message on to the command's log."""
        self.say({"log": [record.levelno, record.getMessage()]})


@dataclass
class _Served:
    """An errand at its courier's."""

    chat: PaidChat
    number: int
    pool: ThreadPoolExecutor

    @classmethod
    def of(cls, number: int, errand: Errand) -> _Served:
        """Opens it, with the environment that its command has now."""
        for name in os.environ.keys() - errand.environment.keys():
            del os.environ[name]
        os.environ.update(errand.environment)
        made = cls(errand.chat(), number, ThreadPoolExecutor(errand.at_once))
        made.replies.entrust(number, Process(**errand.command))
        return made

    @property
    def replies(self) -> Replies:
        """Where they are kept."""
        return cast(Replies, self.chat.replies)

    def stop(self) -> None:
        """What is under way ends and is kept; what has not begun never begins."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def end(self) -> None:
        """Waits for what is under way, and closes the file."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        # On a full disk the row stays, and is worth nothing once this process is gone.
        with contextlib.suppress(sqlite3.Error):
            self.replies.dismiss(self.number)
        self.replies.close()


def main() -> None:
    """A courier's life."""
    # A job that is ended tells all its processes. This one ends with its command, and keeps what it asked.
    for told_to_end in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(told_to_end, signal.SIG_IGN)
    # Whatever prints into the standard output must not stand between the lines.
    out = _Outbox(os.dup(1))
    os.dup2(2, 1)
    log.addHandler(out)
    log.propagate = False
    served: dict[int, _Served] = {}
    for line in _lines(0, int(sys.argv[1])):
        told = json.loads(line)
        if (one := served.get(told.get("of"))) is not None:
            one.pool.submit(_do, told["number"], partial(_answered, one.chat, told), out)
        else:
            _do(told["number"], partial(_opened if "errand" in told else _closed, served, told), out)
    for one in served.values():
        one.stop()
    for one in served.values():
        one.end()


def _opened(served: dict[int, _Served], told: Mapping[str, Any]) -> None:
    served[told["number"]] = _Served.of(told["number"], Errand(**told["errand"]))
    # From here on all that is wrong is said in lines. Whoever reads what a killed command printed, to its
    # end, must not have to wait for its courier.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def _closed(served: dict[int, _Served], told: Mapping[str, Any]) -> None:
    served.pop(told["close"]).end()


def _do(number: int, do: Callable[[], Any], out: _Outbox) -> None:
    """Answers a line by what a function gives or raises."""
    try:
        out.say({"number": number, "found": do()})
    except Exception as error:
        name = type(error).__name__
        plain = error.arguments if isinstance(error, KilterError) else [f"{name}: {error}"]
        out.say({"number": number, "error": (name, plain)})


def _answered(chat: PaidChat, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    asks = [Ask(tuple(a["messages"]), a["id"], a["note"]) for a in told["asks"]]
    options = told["options"]
    found: Sequence[Reply | Choice] = chat.reply(asks) if options is None else chat.choose(asks, options)
    return [asdict(one) for one in found]


def _lines(descriptor: int, command: int) -> Iterator[bytes]:
    """What the command says, until it ends."""
    rest = b""
    while os.getppid() == command:
        if not select.select([descriptor], [], [], TICK)[0]:
            continue
        part = os.read(descriptor, 1 << 16)
        if not part:
            return
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
