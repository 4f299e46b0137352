"""The one way to write files, logs and folders: each is whole or absent, also after a kill.

Nothing outside this module renames a file. Files survive a killed process, a full disk and a power cut:
the new content is written beside the old, flushed to the disk, and takes the name in one step. Lines of
a log can be cut, folders appear at once, and files have hashes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import fnmatch
import hashlib
import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kilter.errors import RunFailed, UserError
from kilter.redaction import redact
from kilter.validation import unique

CHUNK = 1 << 20
"""Bytes of lines that are written at once."""

AGAIN = "run the same command again to resume"
FREE_SPACE = f"free disk space, then {AGAIN}"
"""The fix of a write that failed, where the caller knows no better one."""


@contextlib.contextmanager
def writing(path: Path, what: str = "", fix: str = FREE_SPACE, note: str = "") -> Iterator[None]:
    """Turns the failure of a write into RunFailed, which names the file and the fix.

    Args:
        path: the file or folder that is written.
        what: its name in the message; default: the path itself.
        fix: what the user should do.
        note: one more line for the message, before the fix.
    """
    try:
        yield
    except Exception as error:
        if not _is_io(error):
            raise
        subject, place = (f"{what[:1].upper()}{what[1:]}", f" to {path}") if what else (str(path), "")
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RunFailed(f"{subject} could not be written{place} ({reason})", fix, note) from error


def _is_io(error: Exception) -> bool:
    """Whether this error is how Python, torch or safetensors reports a full disk.

    The class tells nothing: torch and safetensors have no class for it.
    """
    return isinstance(error, OSError) or type(error).__name__ in ("RuntimeError", "SafetensorError")


OWN: list[Path] = []
"""Run folders that this process writes. Nothing under one of them may lead out of it."""


@contextlib.contextmanager
def owning(folder: Path, field: str = "out") -> Iterator[None]:
    """Nothing under this folder is written or removed where a link leads out of it.

    Args:
        folder: the run folder; it may itself be a link, for then all of it lies elsewhere.
        field: what the user called it, for the message.

    Raises:
        UserError: there is such a link already; also later, if one appears meanwhile.
    """
    root = Path(os.path.abspath(folder))
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                _refuse_outside(path, root, field)
    OWN.append(root)
    try:
        yield
    finally:
        OWN.remove(root)


def _inside(path: Path) -> Path:
    """The path, which does not lead out of the run folder that it lies in by name."""
    absolute = Path(os.path.abspath(path))
    for root in OWN:
        if root in absolute.parents:
            _refuse_outside(absolute, root)
    return path


def _refuse_outside(path: Path, root: Path, field: str = "out") -> None:
    inner, real = os.path.realpath(root), os.path.realpath(path)
    if real == inner or real.startswith(inner + os.sep):
        return
    raise UserError(
        field,
        str(path),
        f"lies outside the run's folder, at {real}, where nothing is written or removed",
        "remove the link; to keep a run on another disk, make its whole folder a link",
    )


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; nothing happens where there is none.

    Raises:
        UserError: a link leads out of the run's folder.
    """
    _inside(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


LEFTOVERS = (".*.partial", ".*.old", ".writable.*", ".job")
"""Names of what a writer that was killed leaves behind. It belongs to nobody and may vanish at any time."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is what a killed writer left."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFTOVERS)


def tidy(folder: Path) -> None:
    """Removes what writers that were killed left half written in a folder that nobody writes to now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_leftover(path.name):
            remove(path)


def hidden(path: Path) -> Path:
    """Where the content of a file or folder grows until it is whole."""
    return path.with_name(f".{path.name}.partial")


def write_by(
    path: Path,
    write: Callable[[Path], object],
    what: str = "",
    fix: str = FREE_SPACE,
    shared: bool = False,
) -> None:
    """A whole file or none: `write` fills a hidden file beside `path`, which then takes its name.

    Args:
        path: the file; its folder is made. Old content stays until the new content is whole.
        write: called with the path to write to.
        what: the file's name in an error message.
        fix: the fix in an error message.
        shared: other processes may write the same file now; the last one's stays.

    Raises:
        RunFailed: the disk is full or the folder refuses the file.
    """
    _inside(path)
    partial = hidden(path.with_name(f"{path.name}.{os.getpid()}") if shared else path)
    with writing(path, what, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.unlink(missing_ok=True)  # of a process that was killed
            write(partial)
            _flush(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def write_text(path: Path, text: str, fix: str = FREE_SPACE, shared: bool = False) -> None:
    """A whole text file (UTF-8) or none."""
    write_by(path, lambda partial: partial.write_bytes(text.encode()), fix=fix, shared=shared)


def write_json(path: Path, value: Any, indent: int | None = None, shared: bool = False) -> None:
    """A whole JSON file or none; what JSON does not know is written as its text."""
    write_text(path, json.dumps(value, indent=indent, default=str), shared=shared)


def write_first(path: Path, value: Any) -> bool:
    """A JSON file that the first of several processes writes; returns whether this one was first."""
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(mine, value)
    try:
        os.link(mine, path)  # refused if the name is taken, as a rename would not be
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


@contextlib.contextmanager
def whole_folder(
    folder: Path, what: str = "", fix: str = FREE_SPACE, note: str = "", shared: bool = False
) -> Iterator[Path]:
    """A whole folder or none: the body fills a hidden folder beside it, which then takes its name.

    Args:
        folder: the folder; an older one of this name is replaced.
        what: its name in an error message.
        fix: the fix in an error message.
        note: one more line for an error message.
        shared: other processes may make the same folder now; the first one's stays.
    """
    _inside(folder)
    partial = hidden(folder.with_name(f"{folder.name}.{os.getpid()}") if shared else folder)
    old = partial.with_suffix(".old")
    with writing(folder, what, fix, note):
        # What a killed process left is in the way.
        for stale in (partial, old):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _flush(path)

            # Renaming over a folder that holds files is refused, so the old one steps aside first.
            if folder.exists() and not shared:
                os.replace(folder, old)
            try:
                os.replace(partial, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                if not (shared and folder.exists()):
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        _flush(folder.parent)


@contextlib.contextmanager
def lock(folder: Path, field: str = "out") -> Iterator[None]:
    """Keeps a run folder to this process: a second one that wants it is refused, and told who holds it.

    The kernel lets go of the lock when its holder dies, however it dies. Workers of a run do not lock: their
    first process has done so for all of them.

    Args:
        folder: the run folder; it is made.
        field: what the user called it, for the message.

    Raises:
        UserError: another process holds the folder, or a link in it leads out of it.
    """
    with owning(folder, field), contextlib.ExitStack() as held:
        if int(os.environ.get("RANK", "0")) == 0:
            held.enter_context(_held_lock(folder, field))
        yield


@contextlib.contextmanager
def _held_lock(folder: Path, field: str) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    require_writable(folder, field)
    path = folder / ".lock"
    file = _take(path, field)
    try:
        HELD.append(file)
        yield
    finally:
        HELD.remove(file)
        path.unlink(missing_ok=True)  # while it is held, so that nobody else holds a file without a name
        file.close()
        # A run that was refused leaves no empty folder behind.
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()


HELD: list[IO[bytes]] = []
"""Locks of this process.

A child that is forked closes its copies: it may outlive its parent, and it is not the holder.
"""
os.register_at_fork(after_in_child=lambda: [file.close() for file in HELD])


def _take(path: Path, field: str) -> IO[bytes]:
    """The open lock file, with this process named in it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # which its holder before may have removed
        file = path.open("ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(path, file, field) from error
        except OSError:  # a file system without locks: one process per folder is then up to the user
            return file

        # The holder before may have removed the file between our opening and our locking.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        file.close()
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "since": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    file.truncate(0)
    file.write((json.dumps(holder) + "\n").encode())
    file.flush()
    return file


def _held(path: Path, file: IO[bytes], field: str) -> UserError:
    """Who holds the lock, in the words that the holder left."""
    with file:
        # Between taking the lock and writing the name lies an instant.
        for _ in range(20):
            file.seek(0)
            if text := file.read():
                break
            time.sleep(0.05)
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']} on {holder['host']} ({holder['command']}), since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process, which has only just begun"
    return UserError(
        field,
        str(path.parent),
        f"is in use by {who}",
        "wait until that run has ended, stop it, or choose another folder",
    )


def set_aside(folder: Path, into: Path) -> Path:
    """Moves a folder to `into`/NAME-TIME, so that nothing is ever overwritten; returns the new path."""
    target = into / f"{folder.name}-{dt.datetime.now().strftime('%Y%m%d-%H%M%S-%f')}"
    _inside(folder)
    _inside(target)
    with writing(target):
        into.mkdir(parents=True, exist_ok=True)
        os.replace(folder, target)
    return target


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, has reached the disk."""
    # Some network file systems refuse it for folders, and keep them safe in their own way.
    refused = contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext()
    handle = os.open(path, os.O_RDONLY)
    try:
        with refused:
            os.fsync(handle)
    finally:
        os.close(handle)


def append_lines(path: Path, rows: Iterable[Any], flush: bool = False, escape: bool = True) -> None:
    """Appends one line of JSON per row: all of them, or none.

    A torn last line of a killed writer is dropped first.

    Args:
        path: the file; its folder is made.
        rows: what JSON can say.
        flush: wait until the lines have reached the disk, so that not even a power cut loses them.
        escape: write letters beyond ASCII as escapes.

    Raises:
        RunFailed: the disk is full.
    """
    _inside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            end = _whole_lines(file)
            file.truncate(end)
            try:
                waiting = b""
                for row in rows:
                    waiting += (json.dumps(row, ensure_ascii=escape) + "\n").encode()
                    if len(waiting) > CHUNK:
                        _put(file, waiting)
                        waiting = b""
                _put(file, waiting)
                if flush:
                    os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise


def append_bytes(path: Path, data: bytes) -> int:
    """Appends a block, all of it or none, and waits until it has reached the disk; returns where it begins.

    Raises:
        RunFailed: the disk is full.
    """
    _inside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                _put(file, data)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    return end


def cut_bytes(path: Path, end: int) -> None:
    """Cuts a file in place; one of which nothing is left is removed."""
    _inside(path)
    os.truncate(path, end)
    if end == 0:
        remove(path)


def _put(file: IO[bytes], data: bytes) -> None:
    """Writes all of it: a file without a buffer may take less than it is given."""
    while data:
        data = data[file.write(data) :]


def read_json(path: Path, fix: str = "", keys: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a JSON file that Kilter wrote.

    Args:
        path: the file.
        fix: what to do where it is damaged; default: put it back, or make its stage anew.
        keys: what must stand in it.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text, object_pairs_hook=unique)
        if not isinstance(found, dict):
            raise TypeError("it holds no mapping")
        if missing := [key for key in keys if key not in found]:
            raise KeyError(*missing)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            "file",
            str(path),
            f"is damaged or missing ({' '.join(str(error).split())[:100]})",
            fix or f"put it back, or remove {path.parent} to make its content anew",
        ) from error
    return found


def read_lines(path: Path) -> Iterator[Any]:
    """The rows of a file of JSON lines; a torn last line is left out, and a file that is absent has none.

    Raises:
        UserError: a line is no JSON.
    """
    for number, (_, line) in enumerate(_lines(path), 1):
        yield _row(path, number, line)


def cut_lines(path: Path, keep: Callable[[Any], bool]) -> None:
    """Cuts a file of JSON lines back to the rows before the first one that `keep` refuses.

    Done in place, without a second copy: a full disk may be the very reason for a resumption.
    """
    _inside(path)
    if not path.exists():
        return
    for number, (start, line) in enumerate(_lines(path), 1):
        if not keep(_row(path, number, line)):
            os.truncate(path, start)
            return
    with path.open("rb+") as file:
        file.truncate(_whole_lines(file))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every whole line with the offset where it begins."""
    if not path.exists():
        return
    start = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield start, line
            start += len(line)


def _row(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(
            "file",
            f"{path}:{number}",
            f"is not a line of JSON ({error})",
            "cut the file back to its whole lines",
        ) from error


def whole_lines(path: Path) -> int:
    """Bytes of a file up to its last line end."""
    with path.open("rb") as file:
        return _whole_lines(file)


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the last line end. Read from the back, for the file may be large and its last line long."""
    at = file.seek(0, os.SEEK_END)
    while at > 0:
        start = max(0, at - (1 << 16))
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def require_writable(out: Path, field: str = "out") -> None:
    """Raises UserError when files cannot be created under `out`; called before any expensive work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            field,
            str(out),
            f"cannot be written ({error.strerror or error})",
            "choose a folder you may write to",
        ) from error


def require_file(path: Path, field: str) -> None:
    """Raises UserError when a file cannot be written; called before any expensive work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise UserError(
            field, str(path), f"cannot be written ({error.strerror or error})", "choose a file you may write"
        ) from error


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
