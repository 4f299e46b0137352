"""Counts what a process changes in the file system, and kills the process at one of the changes.

bench.kills arms it in the processes that it starts. KILTER_KILLS names a folder and the process to kill:

    {"counts": "/counts", "inside": "/run", "role": "main", "at": 17, "how": "after", "delay": 0.01}

Python's audit hooks see files that are opened for writing, made, renamed, linked, cut and removed. Calls
without an audit event are wrapped: flushes to the disk, appended lines, rows of the reference cache. What C
code writes by itself is reached by a kill a little after an event.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "sqlite3.connect",
}
ENVIRONMENT = "KILTER_KILLS"


class Hook:
    """Counts the changes of one process. A process that forks another one does not count in it."""

    def __init__(self, plan: dict[str, Any], role: str) -> None:
        self.inside, self.pid = plan["inside"], os.getpid()
        # A file of one byte per change outlives the kill.
        self.log = os.open(f"{plan['counts']}/{role}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.at = plan["at"] if plan.get("role") == role else 0
        self.how, self.delay = plan.get("how", "before"), plan.get("delay", 0.0)
        self.count, self.busy = 0, False

    def change(self, torn: Callable[[], Any] = lambda: None) -> None:
        """One change is about to be made; `torn` makes half of it."""
        if self.busy or os.getpid() != self.pid:
            return
        self.count += 1
        self.busy = True
        try:
            os.write(self.log, b".")
            if self.count == self.at:
                self.kill(torn)
        finally:
            self.busy = False

    def kill(self, torn: Callable[[], Any]) -> None:
        """As `kill -9` does: at once, with half of a write done, or a moment later."""
        if self.how == "after":
            # A second process kills this one, whatever it is doing then.
            if os.fork() == 0:
                time.sleep(self.delay)
                os.kill(self.pid, signal.SIGKILL)
                os._exit(0)
            return
        if self.how == "torn":
            torn()
        os.kill(self.pid, signal.SIGKILL)

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        """What Python says that it is about to do."""
        if name == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and self.is_inside(path):
                self.change()
        elif name in CHANGES and self.is_inside(arguments[0]):
            self.change()

    def is_inside(self, path: Any) -> bool:
        """Whether a path belongs to the run. A name without a folder is one that a folder's removal meets."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return isinstance(path, str | os.PathLike) and (
            os.fspath(path).startswith(self.inside) or not os.path.isabs(path)
        )


def arm(role: str) -> None:
    """Begins to count in this process, if the environment asks for it."""
    if ENVIRONMENT not in os.environ:
        return
    hook = Hook(json.loads(os.environ[ENVIRONMENT]), role)
    sys.addaudithook(hook.event)

    # A flush has no audit event.
    flush = os.fsync

    def fsync(handle: int) -> None:
        hook.change()
        flush(handle)

    os.fsync = fsync
    if "kilter.artifacts" in sys.modules:
        _wrap_kilter(hook)


def _wrap_kilter(hook: Hook) -> None:
    """Lines of a log, and rows of the reference cache: an append can be torn, a transaction be half done."""
    from kilter import artifacts
    from kilter.models.reference import ReferenceCache

    put, store = artifacts._put, ReferenceCache.put

    def torn_put(file: Any, data: bytes) -> None:
        hook.change(lambda: file.write(data[: len(data) // 2]))
        put(file, data)

    def torn_store(cache: Any, *rows: Any) -> None:
        hook.change(lambda: cache._db.execute("BEGIN IMMEDIATE"))
        store(cache, *rows)

    artifacts._put = torn_put
    ReferenceCache.put = torn_store  # type: ignore[method-assign]
