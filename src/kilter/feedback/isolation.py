"""Calls that must come to an end: a worker process runs them and is killed when the time is up.

A thread cannot do this: a regular expression that backtracks for ever, or 9**9**9, holds the interpreter's
lock, and nothing else in the process runs. The worker is started once, keeps what it imported, and is
replaced after a kill; its standard output goes to standard error, so a function may print.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import importlib.util
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

START = 180.0
"""Seconds for the worker to start, or to import a user's file."""


def too_slow(timeout: float) -> str:
    """The problem of a call that its time limit ended."""
    return f"took longer than {timeout:g} s"


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


def load(target: Target) -> None:
    """Imports what the target needs, so that its first call is not charged for it."""
    target.resolve()


class Worker:
    """One process beside this one. Not thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._send: BinaryIO | None = None
        self._receive = -1
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
        try:
            self._send.write(struct.pack("<Q", len(message)) + message)
            self._send.flush()
            answer = self._read(timeout)
        except (OSError, EOFError):
            code = self._process.wait() if self._process is not None else None
            self.close()
            return None, f"ended its process (exit code {code})"
        if answer is None:
            self.close()
            return None, too_slow(timeout)
        found: tuple[Any, str] = pickle.loads(answer)
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
            [sys.executable, "-c", f"from kilter.feedback import isolation; isolation.main({theirs})"],
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=(theirs,),
            env=env,
            # Ctrl-C is for the run, which ends its step first; the worker ends with its input
            start_new_session=True,
        )
        os.close(theirs)
        self._send, self._receive = self._process.stdin, mine  # type: ignore[assignment]
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
        """One message, or None when the time is up. Raises EOFError when the worker is gone."""
        end = time.monotonic() + timeout
        data = b""
        size = 8
        header = True
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                return None
            part = os.read(self._receive, size - len(data))
            if not part:
                raise EOFError
            data += part
            if len(data) == size:
                if not header:
                    return data
                size, data, header = struct.unpack("<Q", data)[0], b"", False

    def close(self) -> None:
        """Kills the worker."""
        if self._process is not None:
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
            box.put((None, f"raised {type(error).__name__}: {error}"))

    threading.Thread(target=run, daemon=True).start()
    try:
        return box.get(timeout=timeout)
    except queue.Empty:
        return None, too_slow(timeout)


def main(descriptor: int) -> None:
    """The worker: reads (function, arguments), answers (value, problem), until its input ends."""
    out = os.fdopen(descriptor, "wb")
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG: not even a function that hangs outlives the run
    logging.disable(logging.WARNING)  # libraries that note that their own time limits are off

    def answer(value: tuple[Any, str]) -> None:
        try:
            message = pickle.dumps(value)
        except Exception as error:
            message = pickle.dumps((None, f"returned what cannot be sent ({type(error).__name__}: {error})"))
        out.write(struct.pack("<Q", len(message)) + message)
        out.flush()

    answer((None, ""))  # ready
    while header := sys.stdin.buffer.read(8):
        message = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
        try:
            function, arguments = pickle.loads(message)
            answer((function(*arguments), ""))
        except BaseException as error:
            answer((None, f"raised {type(error).__name__}: {error}"))
