"""The chain of a run: one file says what every manifest was, and every manifest says what its files were.

    chain.json  ->  STAGE/manifest.json  ->  every file of the stage
                ->  recipe.yaml, report.html and what else lies beside the stages

A stage is recorded once, when it ends: whatever changes afterwards no longer fits. chain.json holds a
checksum of itself. Whoever can rewrite a whole run can rewrite its chain: that is what a signature is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.artifacts import is_leftover, sha256_file, write_json
from kilter.hashes import digest_of, file_hash, files_below

CHAIN = "chain.json"
MANIFEST = "manifest.json"
SIGNATURE = "chain.sig.json"
SCHEMA = 1

UNRECORDED = {CHAIN, MANIFEST, SIGNATURE, ".lock"}
"""Files that no manifest lists: they are recorded elsewhere, or gone when their process is."""

OLDER = "lists no hashes of its stage's files: it is of an older Kilter"
"""What is wrong with a manifest from before there was a chain."""

PASSING = ("checkpoints", "pinned")
"""Folders of a stage that end with it, but for what a stopped run has pinned."""


@dataclass(frozen=True, slots=True)
class Break:
    """A link that does not hold.

    Args:
        path: the file.
        problem: what is wrong with it; the file is the subject.
    """

    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


def files_of(folder: Path, pinned: bool = False) -> dict[str, str]:
    """The files that a stage leaves, by their path in its folder, with their SHA-256.

    Args:
        folder: of the stage.
        pinned: whether pinned checkpoints stay.
    """
    for path in folder.rglob("*.sqlite"):
        _settle(path)
    passing = PASSING[:1] if pinned else PASSING
    found = {}
    for path in files_below(folder):
        name = path.relative_to(folder)
        leftover = any(map(is_leftover, name.parts))
        if name.parts[0] not in passing and not _unrecorded(path, folder) and not leftover:
            found[name.as_posix()] = file_hash(path)
    return found


def _settle(path: Path) -> None:
    """Brings what a database keeps beside itself into its file: closing it later then changes nothing."""
    # A file that is no database is a file like any other.
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=10)) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _unrecorded(path: Path, folder: Path) -> bool:
    """Files of a stage's folder that no manifest lists; an open database's are among them while empty."""
    beside = path.name.endswith(".sqlite-shm") or (
        path.name.endswith(".sqlite-wal") and path.stat().st_size == 0
    )
    return (path.parent == folder and path.name in UNRECORDED) or beside


def root_of(path: Path) -> Path | None:
    """The run that a file or folder lies in: the nearest folder with a chain.json; None without one.

    A chain.json that was put into the folder of a run's stage begins no run of its own.
    """
    # Written as the caller wrote it, as far as that reaches.
    known = [folder for folder in [path, *path.parents][:4] if (folder / CHAIN).is_file()]
    owners = (f for f in reversed(known[1:]) if known[0].relative_to(f).as_posix() in _held(f)["stages"])
    return next(owners, known[0] if known else None)


def record(run: Path, stage: str, manifest: str, listed: Iterable[str]) -> None:
    """A stage ends: its manifest is a link from now on, and its files are nobody else's.

    It comes before the manifest is written. After a kill in between, the stage goes on and ends once more;
    the other way round a finished stage would be nobody's, and never believed.

    Args:
        run: the run's folder.
        stage: its folder's name in the run; "." for a run that is one stage alone.
        manifest: the text of its manifest.json.
        listed: its files, by their path in its folder.
    """
    held = _held(run)
    held["stages"][stage] = hashlib.sha256(manifest.encode()).hexdigest()
    inside = "" if stage == "." else f"{stage}/"
    own = {inside + name for name in listed}
    held["files"] = {name: digest for name, digest in held["files"].items() if name not in own}
    _write(run, held)


@contextlib.contextmanager
def noting(run: Path, *paths: Path) -> Iterator[None]:
    """Files beside the stages, which are written more than once: what the body writes is what counts."""
    names = [path.absolute().relative_to(run.absolute()).as_posix() for path in paths]
    held = _held(run)
    # A kill in the body leaves files that nobody vouches for, and none that look changed.
    if any(held["files"].pop(name, None) for name in names):
        _write(run, held)
    yield
    held = _held(run)
    held["files"] |= {name: sha256_file(path) for name, path in zip(names, paths, strict=True)}
    _write(run, held)


def forget_removed(run: Path, stages: Collection[str]) -> list[str]:
    """Drops the records of stages whose folders are gone and which the recipe has no more; their names."""
    known = _held(run)["stages"]
    gone = [name for name in known if name not in stages and not (run / name).exists()]
    for name in gone:
        forget(run, name)
    return gone


def forget(run: Path, stage: str) -> None:
    """A stage was set aside, or begins anew."""
    held = _held(run)
    if held["stages"].pop(stage, None) is not None:
        _write(run, held)


def _write(run: Path, held: dict[str, Any]) -> None:
    write_json(run / CHAIN, held | {"seal": digest_of(held)}, indent=1)


def _held(run: Path) -> dict[str, Any]:
    """What chain.json holds; nothing where it is absent or damaged, which `breaks` has said before."""
    found, problem = _read(run)
    return {"schema": SCHEMA, "files": {}, "stages": {}} if problem else found


def _read(run: Path) -> tuple[dict[str, Any], str]:
    """What chain.json holds, and what is wrong with it."""
    path = run / CHAIN
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        seal = found.pop("seal")
        tables = [found["files"], found["stages"]]
        if seal != digest_of(found) or text != json.dumps(found | {"seal": seal}, indent=1):
            return {}, "was changed since: its own checksum does not fit"
        if not all(isinstance(v, str) for table in tables for v in table.values()):
            return {}, "is damaged"
    except FileNotFoundError:
        return {}, "is missing, so that nothing says what the run's files were"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, "is damaged, so that nothing says what the run's files were"
    return found, ""


def payload(run: Path) -> bytes:
    """What a signature is over: the recipe and the manifests of all stages, and so every file of theirs."""
    found, _ = _read(run)
    files = {n: h for n, h in found.get("files", {}).items() if n != "report.html"}
    return json.dumps({"files": files, "stages": found.get("stages", {})}, sort_keys=True).encode()


Hash = Callable[[Path], str]


def breaks(run: Path, hash_of: Hash = sha256_file) -> Iterator[Break]:
    """Every link of a run that does not hold, the first of the chain first.

    Args:
        run: folder with a chain.json.
        hash_of: of a file; `file_hash` is quick where nothing changed.
    """
    yield from note_breaks(run, hash_of)
    for stage in dict.fromkeys([*_held(run)["stages"], *stages_below(run)]):
        yield from stage_breaks(run, stage, hash_of)


def note_breaks(run: Path, hash_of: Hash = sha256_file) -> list[Break]:
    """What lies beside the stages and is no longer what it was; nothing where no chain was begun."""
    found, problem = _read(run)
    if problem:
        return [Break(run / CHAIN, problem)] if stages_below(run) or (run / CHAIN).exists() else []
    links = (unlike(run, name, digest, hash_of) for name, digest in found["files"].items())
    return [link for link in links if link is not None]


def stages_below(run: Path) -> list[str]:
    """Folders of a run with a manifest, by name; "." for a run that is one stage alone."""
    if (run / MANIFEST).is_file():
        return ["."]
    return sorted(path.parent.name for path in run.glob("*/manifest.json"))


def stage_breaks(run: Path, stage: str, hash_of: Hash = file_hash) -> Iterator[Break]:
    """The links from chain.json to the files of one finished stage that do not hold.

    A stage that has not finished has no files that count yet.
    """
    found, problem = _read(run)
    folder = run / stage
    path = folder / MANIFEST
    digest = found.get("stages", {}).get(stage)
    if digest is None and not problem:
        if _status(path) == "done":
            old = "files" not in _manifest(path)
            yield Break(
                path, OLDER if old else "is no link of the run's chain: nobody recorded its stage's end"
            )
        return
    if not path.is_file():
        yield Break(path, "is missing")
        return
    if not _within(folder, run):
        yield Break(folder, OUTSIDE)
    if digest is not None and hash_of(path) != digest:
        yield Break(path, "was changed since its stage ended")
    yield from _files(run, stage, set(found.get("files", {})), hash_of)


def _files(run: Path, stage: str, noted: set[str], hash_of: Hash) -> Iterator[Break]:
    """Files of a stage that are others than its manifest says, missing, or added."""
    folder = run / stage
    listed = _listed(folder)
    # A stage of a user's own may write no file, and then lists none. An older Kilter had no list at all.
    if "files" not in _manifest(folder / MANIFEST) and _status(folder / MANIFEST) == "done":
        yield Break(folder / MANIFEST, OLDER)
        return
    inside = "" if stage == "." else f"{stage}/"
    for name, digest in listed.items():
        if inside + name not in noted and (broken := unlike(folder, name, digest, hash_of)) is not None:
            yield broken
    for path in things_below(folder):
        name = path.relative_to(folder).as_posix()
        known = name in listed or inside + name in noted or _unrecorded(path, folder)
        # A stage of a run has no chain of its own.
        if not known or (inside and name in (CHAIN, SIGNATURE)):
            yield Break(path, "was added since its stage ended")


OUTSIDE = "is a link that leads out of its folder"


def _within(path: Path, folder: Path) -> bool:
    """Whether no link leads from a folder to what seems to lie in it."""
    return path.resolve().is_relative_to(folder.resolve())


def things_below(folder: Path) -> Iterator[Path]:
    """All that lies below a folder and is no folder: files, links to whatever, and what else there may be."""
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def unlike(folder: Path, name: str, digest: str, hash_of: Hash) -> Break | None:
    """What is wrong with one file; None where it is what it was."""
    path = folder / name
    # A record may come from anywhere: it does not make anybody read a file of another folder.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return Break(path, "lies outside the run, where no link of it leads")
    if not path.is_file():
        return Break(path, "is missing")
    if not _within(path, folder):
        return Break(path, OUTSIDE)
    return None if hash_of(path) == digest else Break(path, "was changed since")


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(folder: Path) -> dict[str, str]:
    files = _manifest(folder / MANIFEST).get("files", {})
    return {str(n): str(h) for n, h in files.items()} if isinstance(files, dict) else {}


def _status(path: Path) -> str:
    return str(_manifest(path).get("status", ""))
