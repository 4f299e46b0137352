"""Content hashes of files, quickly where nothing changed; and whether a file of the cache may be believed.

The cache may lie on a shared disk. A file in it that somebody else could have written is not believed: it is
computed anew, as if it were absent.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import remove, sha256_file, write_text
from kilter.errors import RunFailed
from kilter.runtime import in_threads

BIG = 1 << 20
"""Bytes from which on a file's hash is remembered."""

SEAL = ".sealed"
"""In a folder of the cache: the hashes of its files."""


def cache_root() -> Path:
    """Folder for converted models and reference log-probs: $KILTER_CACHE, else ~/.cache/kilter."""
    root = os.environ.get("KILTER_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kilter"


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def bytes_of(tensor: Any) -> Any:
    """A tensor's bytes as numpy has them, which knows no bfloat16; a copy only where they lie elsewhere."""
    import torch

    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def flat(tensor: Any) -> tuple[str, tuple[int, ...], Any]:
    """A tensor as its kind, its shape and its bytes: what a process reads without a copy."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), bytes_of(tensor)


def unflat(found: tuple[str, tuple[int, ...], Any]) -> Any:
    """The inverse of `flat`. It may share memory that must not be written to."""
    import torch

    dtype, shape, raw = found
    # Whoever writes all the same is ended by the system: a store maps its memory for reading alone.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    return torch.from_numpy(raw).view(getattr(torch, dtype)).view(shape)


def tensor_hashes(parts: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """SHA-256 of the bytes of each name's tensors, one after the other. Several names at a time."""

    def one(tensors: Sequence[Any]) -> str:
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(bytes_of(tensor).data)
        return digest.hexdigest()

    return dict(zip(parts, in_threads(one, parts.values()), strict=True))


def file_hash(path: Path) -> str:
    """SHA-256 of a file. That of a big one is remembered until its size, times or inode change."""
    facts = path.stat()
    if facts.st_size < BIG:
        return sha256_file(path)
    # A program can set the time of an edit back, but not that of the last change of the inode.
    stamp = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}|{facts.st_ino}"
    note = cache_root() / "hashes" / hashlib.sha256(stamp.encode()).hexdigest()[:40]
    known = remembered(note)
    if isinstance(known, str):
        return known
    found = sha256_file(path)
    remember(note, found)
    return found


def ours(path: Path) -> bool:
    """Whether nobody but this user and root can have written a file."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return facts.st_uid in (0, os.getuid()) and not facts.st_mode & 0o022


def remember(path: Path, value: Any) -> None:
    """Keeps plain data in the cache with its checksum. A cache that cannot be written costs time alone."""
    text = json.dumps({"value": value, "sha256": digest_of([path.name, value])}, default=str)
    # Several processes may write it at once.
    with contextlib.suppress(RunFailed, OSError):
        write_text(path, text, shared=True)
        path.chmod(0o644)


def remembered(path: Path) -> Any:
    """What `remember` kept; None where it is absent, damaged, of another name or not ours."""
    if not ours(path):
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        value = held["value"]
        return value if held["sha256"] == digest_of([path.name, value]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def files_below(folder: Path) -> Iterable[Path]:
    """All files of a folder, those in folders below it included, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hashes_of(folder: Path) -> dict[str, str]:
    """File below a folder to its SHA-256, the seal itself aside."""
    found = (path for path in files_below(folder) if path.name != SEAL)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in found}


def seal(folder: Path) -> None:
    """Notes in a folder of the cache what its files are; called while the folder is still made."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    remember(folder / SEAL, hashes_of(folder))


def sealed(folder: Path) -> bool:
    """Whether a folder of the cache holds what was sealed, and nobody else can have written it."""
    if not folder.is_dir():
        return False
    known = remembered(folder / SEAL)
    return known is not None and all(map(ours, files_below(folder))) and known == hashes_of(folder)


@functools.lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 of Kilter's own code, as it is installed here."""
    root = Path(__file__).parent
    lines = [f"{path.relative_to(root)} {sha256_file(path)}" for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def discard(folder: Path) -> None:
    """Removes a folder of the cache that cannot be believed, so that it is made anew."""
    remove(folder)


def number(text: str) -> int:
    """63 bits that stand for a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
