"""Calls that must come to an end: a worker process runs them and is killed when the time is up.

A thread cannot do this: a regular expression that backtracks for ever, or 9**9**9, holds the interpreter's
lock, and nothing else in the process runs. The worker is started once, keeps what it imported, and is
replaced after a kill. Its standard output goes to standard error, so a function may print. Its standard
input is empty, so that nothing waits for a person. A guardian between this process and the worker ends all
that the worker has started, also when this process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kilter.errors import RunFailed
from kilter.registry import USER_MODULE

HEADER = struct.Struct("<QQ")
"""Number and size of a message. An answer has the number of its call, and is taken for no other's."""

START = 180.0
"""Seconds for the worker to start, or to import a user's file."""


PATIENCE = 3
"""Calls in a row that each cost a worker or its whole time; the rest of their batch is left unscored, so that
a function that hangs costs minutes a step and not an hour.
"""

SLOW, GONE = "took longer than", "ended its process"


def too_slow(timeout: float) -> str:
    """The problem of a call that its time limit ended."""
    return f"{SLOW} {timeout:g} s"


class Patience:
    """Counts, within one batch, the calls in a row that were lost; after too many it lets none through.

    An exception is no such call: it costs nothing, and the next answer may be a better one.
    """

    def __init__(self) -> None:
        self._lost: list[str] = []

    def call(self, run: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
        """(value, problem) of `run`, or why it was not called."""
        if len(self._lost) == PATIENCE:
            return None, f"not called: each of the {PATIENCE} calls before it {self._lost[-1]}"
        value, problem = run()
        self._lost = [*self._lost, problem] if problem.startswith((SLOW, GONE)) else []
        return value, problem


@dataclass(frozen=True)
class Target:
    """A function by its file or module and its name there.

    If it is in a file, the target also has the file's content, because a user may mend the file
    meanwhile.
    """

    where: str
    name: str
    version: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Target | None:
        """None for a function that another process cannot find (a closure, one typed at a prompt)."""
        name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None)
        if not name or "<" in name or module in (None, "__main__"):
            return None
        assert isinstance(module, str)
        if module.startswith(USER_MODULE):
            path = getattr(sys.modules.get(module), "__file__", None)
            return (
                None
                if path is None
                else cls(str(Path(path).resolve()), name, hashlib.sha256(Path(path).read_bytes()).hexdigest())
            )
        return cls(module, name)

    def resolve(self) -> Callable[..., Any]:
        """The function, its file imported once per process and version."""
        if self.where.endswith(".py"):
            key = f"kilter_isolated_{abs(hash((self.where, self.version)))}"
            if key not in sys.modules:
                spec = importlib.util.spec_from_file_location(key, self.where)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[key] = module
                sys.path.insert(0, str(Path(self.where).parent))
                spec.loader.exec_module(module)
            found: Any = sys.modules[key]
        else:
            found = importlib.import_module(self.where)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]


def raised(error: BaseException) -> str:
    """What an exception of a user's code says. Its message is the user's code too, and may fail."""
    try:
        return f"raised {type(error).__name__}: {error}"
    except BaseException:
        return f"raised {type(error).__name__}, whose message cannot be read"


def load(target: Target) -> None:
    """Imports what the target needs, so that its first call is not charged for it."""
    target.resolve()


class _Plain(pickle.Unpickler):
    """Numbers, texts and collections. A worker may run code of others, so it sends none."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuses whatever is not plain."""
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


class Worker:
    """One process beside this one. Not thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._send: BinaryIO | None = None
        self._receive = -1
        self._number = 0
        self._prepared: set[bytes] = set()

    def call(
        self, function: Callable[..., Any], *arguments: Any, timeout: float, prepare: Callable[[], Any]
    ) -> tuple[Any, str]:
        """(value, problem): function(*arguments) in the worker. Both functions must be importable.

        `prepare` runs once in each new worker, on START's time: imports and first uses that no call should be
        charged for.
        """
        key = pickle.dumps(prepare)
        if self._process is None or self._process.poll() is not None:
            self._start()
        if key not in self._prepared:
            _, problem = self._exchange(prepare, (), START)
            if problem:
                return None, problem
            self._prepared.add(key)
        return self._exchange(function, arguments, timeout)

    def _exchange(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float
    ) -> tuple[Any, str]:
        message = pickle.dumps((function, arguments))
        assert self._process is not None
        assert self._send is not None
        self._number += 1
        try:
            self._send.write(HEADER.pack(self._number, len(message)) + message)
            self._send.flush()
            answer = self._read(timeout)
        except (OSError, EOFError):
            code = self._process.wait() if self._process is not None else None
            self.close()
            return None, f"{GONE} (exit code {code})"
        if answer is None:
            self.close()
            return None, too_slow(timeout)
        try:
            found: tuple[Any, str] = _Plain(io.BytesIO(answer)).load()
        except pickle.UnpicklingError as error:
            return None, f"returned what is not read here ({error})"
        return found

    def _start(self) -> None:
        self.close()
        mine, theirs = os.pipe()
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }
        env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from kilter.feedback import isolation; isolation.main{theirs, os.getpid()}",
            ],
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=(theirs,),
            env=env,
            # Ctrl-C is for the run, which ends its step first; the worker ends with its input
            start_new_session=True,
        )
        os.close(theirs)
        self._send, self._receive = self._process.stdin, mine  # type: ignore[assignment]
        self._number = 0
        try:
            started = self._read(START) is not None
        except EOFError:
            started = False
        if not started:
            self.close()
            raise RunFailed(
                "The worker process for feedback did not start",
                "free memory, then run the same command again to resume",
            )

    def _read(self, timeout: float) -> bytes | None:
        """The answer to the last call, or None when the time is up. Raises EOFError if the worker is gone."""
        end = time.monotonic() + timeout
        while (header := self._bytes(HEADER.size, end)) is not None:
            number, size = HEADER.unpack(header)
            message = self._bytes(size, end)
            if message is None or number == self._number:
                return message
        return None

    def _bytes(self, size: int, end: float) -> bytes | None:
        """So many bytes of the worker's, or None when the clock has passed `end`."""
        data = b""
        while len(data) < size:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                return None
            part = os.read(self._receive, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """Kills the worker, and what it has started."""
        if self._process is not None:
            self._process.send_signal(ASKED)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
            with contextlib.suppress(OSError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._process.wait()
            os.close(self._receive)
        self._process, self._send, self._prepared = None, None, set()


WORKER = Worker()
atexit.register(WORKER.close)


def limited(
    function: Callable[..., Any], *arguments: Any, timeout: float, prepare: Callable[[], Any]
) -> tuple[Any, str]:
    """(value, problem) of an importable function in the worker process, see Worker.call."""
    return WORKER.call(function, *arguments, timeout=timeout, prepare=prepare)


def limited_here(function: Callable[[], Any], timeout: float) -> tuple[Any, str]:
    """(value, problem) in a thread of this process, for functions that no other process can find.

    One that holds the interpreter's lock cannot be stopped.
    """
    box: queue.Queue[tuple[Any, str]] = queue.Queue()

    def run() -> None:
        try:
            box.put((function(), ""))
        except BaseException as error:
            box.put((None, raised(error)))

    threading.Thread(target=run, daemon=True).start()
    try:
        return box.get(timeout=timeout)
    except queue.Empty:
        return None, too_slow(timeout)


ASKED = signal.SIGHUP
"""Tells the guardian to end the worker."""

SET_DEATH_SIGNAL, SET_SUBREAPER = 1, 36
"""Calls of Linux: a signal when the parent dies; children whose parent has died become this process's own."""


def main(descriptor: int, parent: int) -> None:
    """The worker, and on Linux its guardian, which outlives the run for the moment that the killing takes."""
    if sys.platform != "linux":
        serve(descriptor)
        return
    worker = os.fork()
    if worker:
        os.close(descriptor)
        os._exit(_guard(worker, parent))
    die_with_parent()
    serve(descriptor)


def die_with_parent(parent: int | None = None) -> None:
    """Ends this process by SIGKILL when its parent dies, however it dies and whatever this one does then.

    Linux alone can do it. Where it cannot, a worker ends when it next reads its input.

    Args:
        parent: its process id, if the parent may be dead already; this process then ends at once.
    """
    if sys.platform == "linux":
        _linux(SET_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _guard(worker: int, parent: int) -> int:
    """Waits for the end of the worker or of the run, then ends whatever the worker left; its exit code."""
    _linux(SET_SUBREAPER, 1)
    _linux(SET_DEATH_SIGNAL, signal.SIGTERM)
    waited = {signal.SIGCHLD, signal.SIGTERM, ASKED}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    code, asked = None, False
    # The signal of a parent's death comes from a thread: only a new parent tells of a dead process.
    while code is None and not asked and os.getppid() == parent:
        found = signal.sigtimedwait(waited, 1.0)
        asked = found is not None and found.si_signo == ASKED
        code = _reaped(worker)

    # Killing a process makes its children this one's, until there are none.
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)
    return 128 if code is None else code if code >= 0 else 128 - code


def _reaped(worker: int) -> int | None:
    """The worker's exit code once it has one; processes that it left are taken on the way."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                return os.waitstatus_to_exitcode(ended[1])
    return None


def _children() -> list[int]:
    """Processes whose parent this one is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of a program may hold spaces and brackets: the fields are counted behind it.
            if int(path.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _linux(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value)


def serve(descriptor: int) -> None:
    """The worker: reads (function, arguments), answers (value, problem), until its input ends."""
    os.set_inheritable(descriptor, False)
    out = os.fdopen(descriptor, "wb")
    # Messages come by another door, so that a function which reads finds an empty input.
    messages = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.breakpointhook = _nobody_there
    logging.disable(logging.WARNING)  # libraries that note that their own time limits are off

    own = os.getpid()

    def answer(number: int, value: tuple[Any, str]) -> None:
        if os.getpid() != own:
            # A function forked, and its child has come back: one call has one answer, its parent's.
            os._exit(0)
        try:
            message = pickle.dumps(value)
        except Exception as error:
            message = pickle.dumps((None, f"returned what cannot be sent ({type(error).__name__}: {error})"))
        out.write(HEADER.pack(number, len(message)) + message)
        out.flush()

    answer(0, (None, ""))  # ready
    while header := messages.read(HEADER.size):
        number, size = HEADER.unpack(header)
        message = messages.read(size)
        try:
            function, arguments = pickle.loads(message)
            found: tuple[Any, str] = (function(*arguments), "")
        except BaseException as error:
            found = None, raised(error)
        answer(number, found)


def _nobody_there(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("breakpoint() was called, and nobody can answer it here")
