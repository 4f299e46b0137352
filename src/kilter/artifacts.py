"""THE way to write: files that are whole or absent, lines that can be cut, folders that appear at once, hashes.

Nothing outside this module renames a file. What it writes survives a killed process, a full disk and a power cut: the
new content is written beside the old, flushed to the disk, and takes the name in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kilter.errors import RunFailed, UserError

AGAIN = "free disk space, then run the same command again to resume"
"""The fix of a write that failed, where the caller knows no better one."""


@contextlib.contextmanager
def writing(path: Path, what: str = "", fix: str = AGAIN) -> Iterator[None]:
    """Turns the failure of a write into RunFailed, which names the file and the fix.

    Args:
        path: the file or folder that is written.
        what: its name in the message; default: the path itself.
        fix: what the user should do.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        if isinstance(error, NotImplementedError | RecursionError):
            raise
        named = f"{what} could not be written to {path}" if what else f"{path} could not be written"
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RunFailed(f"{named} ({reason})\n  fix: {fix}") from error


def write_by(path: Path, write: Callable[[Path], None], what: str = "", fix: str = AGAIN) -> None:
    """A whole file or none: `write` fills a hidden file beside `path`, which then takes its name.

    Args:
        path: the file; its folder is made. Old content stays until the new content is whole.
        write: called with the path to write to.
        what: the file's name in an error message.
        fix: the fix in an error message.

    Raises:
        RunFailed: the disk is full or the folder refuses the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, what, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            _flush(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """A whole text file (UTF-8) or none."""
    write_by(path, lambda partial: _put(partial, text.encode()))


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """A whole JSON file or none; what JSON does not know is written as its text."""
    write_text(path, json.dumps(value, indent=indent, default=str))


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
