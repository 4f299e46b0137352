"""Replies that were paid for, on SQLite: each is committed at once, and none is paid twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kilter.errors import UserError


def key_of(question: Mapping[str, Any]) -> str:
    """SHA-256 of all that a reply depends on."""
    text = json.dumps(question, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_OPEN: weakref.WeakSet[Replies] = weakref.WeakSet()
"""Files of this process that may still change when they are closed."""


def finish(folder: Path) -> None:
    """Closes the files below a folder: what SQLite has beside a file goes into it only then.

    Args:
        folder: of a stage that is about to be recorded, file by file.
    """
    for replies in list(_OPEN):
        if replies.path.resolve().is_relative_to(folder.resolve()):
            replies.close()


class Replies:
    """A file of replies by the hash of their question. Several threads and processes may share it.

    Questions are not kept, and neither are failures.

    Args:
        path: the file; it is made where it is absent, but not for reading alone.
        field: the setting that named it, for messages.
        reading: only replies that stand in it are wanted.
    """

    def __init__(self, path: Path, field: str = "cache", reading: bool = False) -> None:
        if reading and not path.is_file():
            raise UserError(
                field, str(path), "names no file to replay", "give the cache of an earlier run, or no replay"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._lock = path, threading.Lock()
        try:
            # Autocommit: a reply that was paid for is on disk before the next one is asked for.
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            if not reading:
                # A kill loses no commit this way, and no reply waits for the disk to spin.
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute("PRAGMA synchronous=NORMAL")
                self._base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")
            self._base.execute("SELECT key, reply FROM replies LIMIT 1")
            _OPEN.add(self)
        except sqlite3.DatabaseError as error:
            raise UserError(
                field, str(path), f"is not a cache of replies ({error})", "name another file, or remove it"
            ) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a question; None where it has none yet."""
        with self._lock:
            row = self._base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def put(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Keeps replies. The first reply to a question stays: two processes then read the same one."""
        values = [(key, json.dumps(reply)) for key, reply in rows]
        if values:
            with self._lock, self._base:
                self._base.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", values)

    def __len__(self) -> int:
        with self._lock:
            return int(self._base.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        self._base.close()
