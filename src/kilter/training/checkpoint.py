"""Checkpoints that are whole or absent, and the rule for how often to take one.

A checkpoint is a folder that appears by rename, sealed: it knows the size and checksum of its own files and
of the run's logs at that step. A resumption takes the newest one whose seal holds, and names each that is
damaged. `auto` saves whenever the time since the last save is at least 20 times what a save costs, so
checkpoints take under 5 % of the time: every step for a small adapter, every minute or so for full weights on
a slow disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from kilter.artifacts import AGAIN, hidden, remove, whole_folder, whole_lines, writing
from kilter.errors import UserError
from kilter.training.state_file import read_values, write_values

CHECKPOINT_FORMAT = 7
"""Part of a run's identity: raised when a checkpoint of older code would be read wrongly.

5: the learner counts the batches that it has learned from.
6: sealed by checksums.
7: a state is one safetensors file; until then torch pickled it.
"""

META = "meta.json"

STATE = "state.safetensors"
"""The whole run but for shards, in a checkpoint."""

PICKLED = "state.pt"
"""What an older Kilter called it. It is never opened."""

KEPT = 2
"""Whole checkpoints on disk: should the newest be damaged, the one before it is at hand."""


@dataclass
class Checkpoints:
    """Checkpoints of one run under `folder`, beside the run's logs; the two newest whole ones are kept."""

    folder: Path
    every: int | Literal["auto"] = "auto"
    damaged: list[str] = field(default_factory=list)
    """What `find` passed over, a sentence for each."""

    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0
    _found: tuple[Path, dict[str, Any]] | None = None
    _logs: dict[Path, Seal] = field(default_factory=dict)

    def all(self) -> list[Path]:
        """Checkpoints by step, the newest last; whether they are damaged is not known."""
        return sorted(self.folder.glob("step-*"), key=_step)

    def latest(self) -> Path | None:
        """The newest checkpoint by name."""
        return next(reversed(self.all()), None)

    def find(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint, and what it says of itself: step, method, identity.

        Reads every file of it once, so that what is found is found before any long work.

        Raises:
            UserError: there are checkpoints, and all are damaged; or another version of Kilter wrote them.
        """
        if self._found is not None:
            return self._found
        self.damaged.clear()
        for folder in reversed(self.all()):
            try:
                meta = self._opened(folder)
            except _DamagedError as error:
                self.damaged.append(str(error))
                continue
            self._found = (folder, meta)
            return self._found
        if self.damaged:
            raise UserError(
                "out",
                str(self.folder.parent),
                f"holds no whole checkpoint: {'; '.join(self.damaged)}",
                f"put the named file back, or remove {self.folder} to begin this run anew",
            )
        return None

    def _opened(self, folder: Path) -> dict[str, Any]:
        """What a checkpoint says of itself, once its files and the logs are found to be what they were."""
        path = folder / META
        try:
            body = json.loads(path.read_text())
            # Older formats had no checksum: they are refused by name, for they are not damaged.
            meta = body if "step" in body else body["meta"]
            if meta is not body and body["check"] != _check(meta):
                raise ValueError("its checksum is another one")
            found = meta.get("format", "2 or older")
        except FileNotFoundError as error:
            raise _DamagedError(f"{path} is missing") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _DamagedError(f"{path} is damaged ({error})") from error
        if found != CHECKPOINT_FORMAT:
            age = "a newer" if isinstance(found, int) and found > CHECKPOINT_FORMAT else "an older"
            raise UserError(
                "out",
                str(self.folder.parent),
                f"holds a checkpoint of format {found}, written by {age} Kilter: "
                f"this version reads format {CHECKPOINT_FORMAT}",
                "finish the run with the version that began it, choose another folder, "
                "or remove its checkpoints/",
            )

        # Files are what they were from end to end; a log may have grown since.
        for name, seal in meta["files"].items():
            if list(Seal().over(folder / name)) != seal:
                raise _DamagedError(f"{folder / name} is damaged or missing")
        for name, seal in meta["logs"].items():
            log = self.folder.parent / name
            if list(Seal().over(log, seal[0])) != seal:
                raise _DamagedError(
                    f"{log} is not what it was at step {_step(folder)}: cut, changed or missing"
                )
        return dict(meta)

    def due(self, step: int) -> bool:
        """Whether to save after this many completed steps."""
        # By count where a user wants it, else by what saving costs.
        if isinstance(self.every, int):
            return step % self.every == 0
        return time.monotonic() - self._saved_at >= 20 * self._cost

    def pin(self, step: int, is_main: bool = True) -> None:
        """Keeps the checkpoint of this step under pinned/. The first and the last one pinned stay.

        Hard links cost no space twice.
        """
        source, kept = self.folder / f"step-{step}", self.folder.parent / "pinned"
        if not is_main or not source.is_dir():
            return
        target = kept / source.name
        # A step that is done again after a kill is pinned once.
        if not target.exists():
            with whole_folder(target) as partial:
                shutil.copytree(source, partial, copy_function=_link, dirs_exist_ok=True)
        # The first shows how it began, the last what became of it.
        between = sorted(kept.glob("step-*"), key=_step)[1:-1]
        for old in between:
            remove(old)

    def save(
        self, step: int, write: Callable[[Path], None], meta: dict[str, Any], is_main: bool = True
    ) -> None:
        """A whole checkpoint; of the older ones, the newest stays.

        A full disk raises RunFailed naming the last good one.
        """
        start = time.monotonic()
        target, last = self.folder / f"step-{step}", self.latest()
        what, fix = (
            f"the checkpoint of step {step}",
            f"free disk space or choose another output folder, then {AGAIN}",
        )
        note = f"Last good checkpoint: {last or 'none yet'}"
        # One process makes the folder; the others add their shards to it before it takes its name.
        if is_main:
            with whole_folder(target, what, fix, note) as partial:
                write(partial / STATE)
                self._seal(partial, {"format": CHECKPOINT_FORMAT, "step": step} | meta)
            self._remove_older(target)
        else:  # its shards go to the folder that the main process has made
            with writing(target, what, fix, note):
                write(hidden(target) / STATE)
        # The cost of this save decides how soon the next one is worth it.
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _seal(self, folder: Path, meta: dict[str, Any]) -> None:
        """Writes meta.json: sizes and checksums of the checkpoint's files, and of the logs up to here."""
        parts = sorted(p for p in folder.rglob("*") if p.is_file())  # shards lie in a folder of their own
        files = {str(p.relative_to(folder)): list(Seal().over(p)) for p in parts}
        logs = {}
        for path in sorted(self.folder.parent.glob("*.jsonl")):
            # A log grows at its end alone, so that only its new lines are read.
            self._logs[path] = self._logs.get(path, Seal()).over(path, whole_lines(path))
            logs[path.name] = list(self._logs[path])
        meta = meta | {"files": files, "logs": logs}
        (folder / META).write_bytes(json.dumps({"check": _check(meta), "meta": meta}).encode())

    def _remove_older(self, target: Path) -> None:
        """Keeps this checkpoint and the whole one before it. What lies ahead of it is damaged, or undone."""
        before = [p for p in self.all() if _step(p) < _step(target)]
        keep = {target, *before[-(KEPT - 1) :]}
        for old in self.all():
            if old not in keep:
                remove(old)


class _DamagedError(Exception):
    """A file of a checkpoint, or a log it belongs to, is not what was written."""


class Seal(NamedTuple):
    """Size and CRC-32 of a file's beginning."""

    size: int = 0
    crc: int = 0

    def over(self, path: Path, size: int | None = None) -> Seal:
        """The seal of a file's first `size` bytes, of all of it for None.

        Reads what this one does not cover. A file that is shorter, or absent, has the seal of what is there.
        """
        done, crc = self
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(done)
            while chunk := file.read(1 << 20 if size is None else min(1 << 20, size - done)):
                done, crc = done + len(chunk), zlib.crc32(chunk, crc)
        return Seal(done, crc)


def _check(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes a run's state into its checkpoint."""
    write_values(folder / STATE, state)


def read_state(folder: Path) -> dict[str, Any]:
    """The inverse of `write_state`.

    Raises:
        UserError: the file is damaged, or an older Kilter wrote it.
    """
    if (folder / PICKLED).exists():
        raise _older(folder / PICKLED, folder.parent.parent)
    found: dict[str, Any] = read_values(folder / STATE)
    return found


def _older(written: Path, out: Path) -> UserError:
    return UserError(
        "out",
        str(out),
        f"holds {written.relative_to(out)}, written by an older Kilter: this version does not open it",
        "finish the run with the version that began it, choose another folder, or remove its checkpoints/",
    )


def rng_state() -> dict[str, Any]:
    """Random states of Python, numpy and torch, as tensors and lists of numbers."""
    # A list of numbers is what JSON can hold of a generator.
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`."""
    # JSON has no tuples, and Python and numpy insist on theirs.
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
