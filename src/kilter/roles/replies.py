"""Replies that were paid for, on SQLite: each is committed at once, and none is paid twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.types import Usage

log = logging.getLogger("kilter")


def key_of(question: Mapping[str, Any]) -> str:
    """SHA-256 of all that a reply depends on."""
    text = json.dumps(question, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_of_row(key: str, reply: str) -> str:
    """SHA-256 of a row: a reply that stands under another question does not fit either."""
    return hashlib.sha256(f"{key}\n{reply}".encode("utf-8", "surrogatepass")).hexdigest()


def _tokens_of(reply: str) -> Usage:
    """What a kept reply took; nothing where it was changed, which is said when it is read."""
    try:
        return Usage(**json.loads(reply)["usage"])
    except (ValueError, TypeError, KeyError):
        return Usage()


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine: its number alone is given to another one some day.

    host: its machine. born: seconds since 1970 when it began, as the system counts them.
    """

    host: str
    pid: int
    born: float

    @classmethod
    def now(cls) -> Process:
        """This process."""
        import psutil

        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @property
    def lives(self) -> bool:
        """Whether it still does something."""
        import psutil

        try:
            found = psutil.Process(self.pid)
            # The system's clock may have been set meanwhile.
            same = abs(found.create_time() - self.born) < DRIFT
            return same and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


DRIFT = 2.0
"""Seconds by which two readings of one process's beginning may differ."""

POLL = 0.05
"""Seconds between two looks at whether another process has ended."""


def _address(path: Path, reading: bool) -> str:
    """A file for SQLite. One that nobody can write is read as it stands: nothing can be put beside it."""
    beside = path.with_name(f"{path.name}-wal")
    still = reading and not beside.exists() and not os.access(path.parent, os.W_OK)
    return f"{path.absolute().as_uri()}{'?immutable=1' if still else ''}"


def _unusable(field: str, path: Path, error: sqlite3.DatabaseError) -> UserError:
    """Why a file cannot be opened."""
    # Replies without checksums are nobody's word: an older Kilter kept them so.
    why = "was kept by an older Kilter, without checksums"
    fix = "name another file, or remove it"
    if "no such column" not in str(error):
        why = f"is not a cache of replies ({error})"
    if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
        # What was paid for is in it: a full disk is no reason to remove it.
        why = f"cannot be used ({error})"
        fix = "make room, or give the right to write, or name another file"
    return UserError(field, str(path), why, fix)


_OPEN: weakref.WeakSet[Replies] = weakref.WeakSet()
"""Files of this process that may still change when they are closed."""

BEFORE_FINISH: list[Callable[[], object]] = []
"""Waits for those who still close a file that this process has forgotten."""


def finish(folder: Path) -> None:
    """Closes the files below a folder: what SQLite has beside a file goes into it only then.

    Args:
        folder: of a stage that is about to be recorded, file by file.
    """
    for replies in list(_OPEN):
        if replies.path.resolve().is_relative_to(folder.resolve()):
            replies.close()
    for settle in BEFORE_FINISH:
        settle()


class Replies:
    """A file of replies by the hash of their question. Several threads and processes may share it.

    Questions are not kept, and neither are failures. Every row has a checksum, which is looked at when it is
    read: a row that has changed is named, and is as if it were not there.

    Args:
        path: the file; it is made where it is absent, but not for reading alone.
        field: the setting that named it, for messages.
        reading: only replies that stand in it are wanted.
        who: opens it, of those who pay for replies in it.
        price: what tokens cost; it is asked for replies that an older Kilter kept.
        command: for which a courier opens it; once it is dead, nobody wants to ask anything more.
    """

    def __init__(
        self,
        path: Path,
        field: str = "cache",
        reading: bool = False,
        who: str = "",
        price: Callable[[Usage], float] = lambda usage: 0.0,
        command: Process | None = None,
    ) -> None:
        if reading and not path.is_file():
            raise UserError(
                field,
                str(path),
                "names no file to replay",
                "give judge.sqlite of an earlier run, or leave it out",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.field, self.reading, self._lock = path, field, reading, threading.Lock()
        self._before_close: list[Callable[[], object]] = []
        self.changed = 0
        """Rows that were asked for, and are no longer what was kept."""
        try:
            # Autocommit: a reply that was paid for is on disk before the next one is asked for.
            self._base = sqlite3.connect(
                _address(path, reading), timeout=60, isolation_level=None, check_same_thread=False, uri=True
            )
            # SQLite's own object is in a cycle, and would keep the file open until garbage is collected.
            weakref.finalize(self, self._base.close).atexit = False
            if not reading:
                # A kill loses no commit this way, and no reply waits for the disk to spin.
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute("PRAGMA synchronous=NORMAL")
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT, digest TEXT)"
                )
            self._base.execute("SELECT key, reply, digest FROM replies LIMIT 1")
            if not reading:
                self._keep_costs(who, price)
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS couriers (host TEXT, pid INTEGER, born REAL, errand INTEGER, "
                    "command INTEGER, command_born REAL, PRIMARY KEY (host, pid, errand))"
                )
            # What a killed command left under way is paid for, and will be here.
            self._wait_for_couriers(command)
            _OPEN.add(self)
        except sqlite3.DatabaseError as error:
            raise _unusable(field, path, error) from error

    def _keep_costs(self, who: str, price: Callable[[Usage], float]) -> None:
        """Makes the table of what was paid.

        An older Kilter had none: its replies cost what their tokens cost, and count for whoever comes first.
        """
        if self._base.execute("SELECT 1 FROM sqlite_master WHERE name = 'paid'").fetchone():
            return
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            kept = self._base.execute("SELECT reply FROM replies").fetchall()
            cost = price(sum((_tokens_of(reply) for (reply,) in kept), Usage()))
            self._base.execute("CREATE TABLE IF NOT EXISTS paid (who TEXT PRIMARY KEY, cost REAL)")
            self._base.executemany("INSERT OR IGNORE INTO paid VALUES (?, ?)", [(who, cost)] if cost else [])
        if cost:
            told = "an older Kilter noted no costs; by the tokens of its replies they come to"
            log.warning("%s: %s %.6g, which counts towards max_cost", self.path, told, cost)

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a question; None where it has none yet, or one that was changed since it was kept.

        Raises:
            UserError: the file itself is damaged.
        """
        try:
            with self._lock:
                row = self._base.execute("SELECT reply, digest FROM replies WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            reply, digest = (part if isinstance(part, str) else "" for part in row)
            if digest == digest_of_row(key, reply):
                return dict(json.loads(reply))
            self._forget(key)
        except sqlite3.DatabaseError as error:
            raise UserError(
                self.field, str(self.path), f"is damaged ({error})", "put it back, or remove it to ask anew"
            ) from error
        return None

    def _forget(self, key: str) -> None:
        """Names a row that was changed, and makes room for the reply that is asked for anew."""
        self.changed += 1
        then = "it counts as absent" if self.reading else "its question is asked anew"
        log.warning("%s: the reply %s was changed since it was kept: %s", self.path, key[:12], then)
        if not self.reading:
            with self._lock:
                self._base.execute("DELETE FROM replies WHERE key = ?", (key,))

    def put(self, rows: Iterable[tuple[str, Mapping[str, Any]]], cost: float = 0.0, who: str = "") -> None:
        """Keeps replies. The first reply to a question stays: two processes then read the same one.

        Args:
            rows: questions' keys and replies.
            cost: of asking, also for those that sent nothing to keep.
            who: asked.
        """
        values = [
            (key, text, digest_of_row(key, text)) for key, text in ((k, json.dumps(r)) for k, r in rows)
        ]
        if values or cost:
            with self._lock, self._base:
                self._base.execute("BEGIN")
                self._base.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", values)
                more = "ON CONFLICT (who) DO UPDATE SET cost = cost + excluded.cost"
                self._base.execute(f"INSERT INTO paid VALUES (?, ?) {more}", (who, cost))

    def paid(self, who: str) -> float:
        """What somebody paid for replies that lie here, and for failures beside them, in all commands."""
        with self._lock:
            row = self._base.execute("SELECT cost FROM paid WHERE who = ?", (who,)).fetchone()
        return 0.0 if row is None else float(row[0])

    def entrust(self, errand: int, command: Process) -> None:
        """Notes that this process asks for a command, and will keep the replies where the command dies."""
        own = Process.now()
        row = (own.host, own.pid, own.born, errand, command.pid, command.born)
        with self._lock:
            self._base.execute("INSERT OR REPLACE INTO couriers VALUES (?, ?, ?, ?, ?, ?)", row)

    def dismiss(self, errand: int) -> None:
        """Notes that this process asks no more."""
        with self._lock:
            whom = (socket.gethostname(), os.getpid(), errand)
            self._base.execute("DELETE FROM couriers WHERE host = ? AND pid = ? AND errand = ?", whom)

    def _wait_for_couriers(self, command: Process | None) -> None:
        """Waits for those of this machine whose command has died.

        Orphans wait for nobody: they would wait for each other, or one for itself.
        """
        if not self._base.execute("SELECT 1 FROM sqlite_master WHERE name = 'couriers'").fetchone():
            return  # of an older Kilter, which is read alone
        told = False
        while (orphans := self._orphans()) and (command is None or command.lives):
            if not told:
                what = "waits for the calls that a killed command left under way"
                log.warning("%s: %s (process %s)", self.path, what, ", ".join(map(str, orphans)))
            told = True
            time.sleep(POLL)

    def _orphans(self) -> list[int]:
        rows = self._base.execute("SELECT * FROM couriers WHERE host = ?", (socket.gethostname(),)).fetchall()
        living = {(host, pid): Process(host, pid, born).lives for host, pid, born, *_ in rows}
        gone = [whom for whom, lives in living.items() if not lives]
        if gone and not self.reading:
            self._base.executemany("DELETE FROM couriers WHERE host = ? AND pid = ?", gone)
        left = [row for row in rows if living[row[:2]]]
        return sorted({pid for host, pid, _, _, *command in left if not Process(host, *command).lives})

    def before_close(self, do: Callable[[], object]) -> None:
        """Has something done before the file is closed, such as ending who else writes into it."""
        self._before_close.append(do)

    def __len__(self) -> int:
        with self._lock:
            return int(self._base.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        for do in self._before_close:
            do()
        self._base.close()
