"""manifest.json of a stage: what went in, what came out, when, with what.

The chain from data to verdict can be checked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from kilter import artifacts, chain
from kilter.artifacts import remove, write_text
from kilter.errors import RunFailed, UserError
from kilter.redaction import redact, redacted
from kilter.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "statsmodels",
    "scikit-learn",
)


LATER = ("files", "sources")
"""Fields that manifests of schema 1 lack."""


@dataclass
class Manifest:
    """`key` is the hash of kind, config and inputs: an unchanged key means the artifact is still right."""

    stage: str
    kind: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]
    status: Literal["running", "waiting", "done", "failed"] = "running"
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    schema: int = 2
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file that the stage left, by its path in the stage's folder."""

    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of everything outside the run that the stage read: `file:PATH`, `model:NAME`, `code`."""

    def write(self, folder: Path) -> None:
        """Atomically writes folder/manifest.json."""
        write_text(folder / "manifest.json", self.text())

    def text(self) -> str:
        """What manifest.json holds."""
        return json.dumps(asdict(self), indent=1, default=str)


def new(
    stage: str,
    kind: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    free: frozenset[str] = frozenset(),
) -> Manifest:
    """The manifest of a stage that begins now, here. Settings in `free` change no number, nor the key."""
    # A password that was changed changes no number, and is nobody's business.
    config, inputs = redacted(config), {redact(name): value for name, value in inputs.items()}
    counted = unlimited({name: value for name, value in config.items() if name not in free})
    return Manifest(
        stage,
        kind,
        stage_key(kind, counted, inputs),
        config,
        inputs,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        seed=int(config.get("seed", 0)),
        versions=versions(),
        machine=machine(),
    )


LIMITS = frozenset({"max_cost"})
"""Settings that end a stage early, and change nothing of what it makes: who raises one goes on."""


def unlimited(value: Any) -> Any:
    """Plain data without limits, however deep they stand."""
    if isinstance(value, dict):
        return {name: unlimited(one) for name, one in value.items() if name not in LIMITS}
    return [unlimited(one) for one in value] if isinstance(value, list) else value


def read(folder: Path) -> Manifest | None:
    """The manifest of a stage folder; None where there is none.

    Raises:
        UserError: it is damaged. What the folder holds is then of unknown origin, and stays as it is.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    known = [f.name for f in fields(Manifest)]
    found = artifacts.read_json(path, keys=[name for name in known if name not in LATER])
    return Manifest(**{name: found[name] for name in known if name in found})


@contextlib.contextmanager
def life(
    folder: Path, entry: Manifest, ends: Callable[[Manifest], object] = lambda entry: None
) -> Iterator[Manifest]:
    """A stage from its beginning to its end, as manifest.json in `folder` tells it at every moment.

    The body does the work and fills in `outputs` and `facts`. A stage that waits for people sets the status
    itself. A process that is killed leaves "running"; the next one with the same key adds its seconds to
    those on record.

    Args:
        folder: the stage's folder.
        entry: what `new` made.
        ends: told of the manifest of a stage that is done just before it is written.
    """
    before = read(folder)
    if before is not None and before.key == entry.key:
        entry.seconds = before.seconds
    entry.write(folder)
    spent, since = entry.seconds, time.monotonic()

    def record(status: Literal["running", "waiting", "done", "failed"]) -> None:
        entry.status, entry.seconds = status, round(spent + time.monotonic() - since, 1)
        if status == "done":
            ends(entry)
        entry.write(folder)

    try:
        yield entry
    except BaseException as error:
        # What was refused before any work leaves nothing that somebody has to clear away.
        if before is None and isinstance(error, UserError) and _bare(folder):
            for name in NOTES:
                remove(folder / name)
            raise
        # The cause of the failure must reach the user, even if the disk is too full to record it.
        with contextlib.suppress(RunFailed):
            record("failed")
        raise
    if entry.status == "running":
        entry.files = chain.files_of(folder, pinned=bool(entry.facts.get("stopped")))
    record("done" if entry.status == "running" else entry.status)
    if entry.status == "done":
        tidy(folder, entry)


NOTES = (chain.MANIFEST, "trained_prompts.txt", "uncertified_judges.txt")
"""What a stage writes down before its work begins."""


def _bare(folder: Path) -> bool:
    """Whether the folder holds nothing that any work has made."""
    return all(path.name in (*NOTES, ".lock") for path in folder.iterdir())


def tidy(folder: Path, entry: Manifest) -> None:
    """Removes what a finished stage needs no more, also where a kill came between its end and this."""
    # The finished artifact is on record. Pinned checkpoints only answer when a stopped run went wrong.
    remove(folder / "checkpoints")
    if not entry.facts.get("stopped"):
        remove(folder / "pinned")
    artifacts.tidy(folder)


def stage_key(kind: str, config: dict[str, Any], inputs: dict[str, str]) -> str:
    """Hash of everything that determines the artifact."""
    text = json.dumps([kind, config, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Kilter, Python and the libraries that numbers depend on."""
    found = {"kilter": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores and system in one line."""
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {system}"
