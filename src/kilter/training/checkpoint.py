"""Checkpoints that are whole or absent, and the rule for how often to take one.

A checkpoint is a folder that appears by rename. `auto` saves whenever the time since the last save is at
least 20 times what a save costs, so checkpoints take under 5 % of the time: every step for a small adapter,
every minute or so for full weights on a slow disk.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kilter.artifacts import AGAIN, hidden, whole_folder, writing
from kilter.errors import UserError

CHECKPOINT_FORMAT = 5
"""Part of a run's identity: raised when a checkpoint of older code would be read wrongly.

5: the learner counts the batches that it has learned from.
"""


@dataclass
class Checkpoints:
    """Checkpoints of one run under `folder`; only the newest whole one is kept."""

    folder: Path
    every: int | Literal["auto"] = "auto"
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        # A hidden folder is one that is not whole yet.
        found = sorted(self.folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
        return found[-1] if found else None

    def meta(self) -> dict[str, Any] | None:
        """What the newest whole checkpoint says of itself: step, method, identity.

        Raises:
            UserError: another version of Kilter wrote it.
        """
        latest = self.latest()
        if latest is None:
            return None
        meta: dict[str, Any] = json.loads((latest / "meta.json").read_text())
        # An older layout would be read without an error, and wrongly.
        if meta.get("format") != CHECKPOINT_FORMAT:
            raise UserError(
                "out",
                str(self.folder.parent),
                f"holds a checkpoint of format {meta.get('format', '2 or older')}, "
                "and this version of Kilter "
                f"reads format {CHECKPOINT_FORMAT}",
                "finish the run with the version that began it, choose another folder, "
                "or remove its checkpoints/",
            )
        return meta

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
            shutil.copytree(source, target, copy_function=_link)
        # The first shows how it began, the last what became of it.
        between = sorted(kept.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))[1:-1]
        for old in between:
            shutil.rmtree(old, ignore_errors=True)

    def save(
        self, step: int, write: Callable[[Path], None], meta: dict[str, Any], is_main: bool = True
    ) -> None:
        """A whole checkpoint, which replaces the older ones.

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
                write(partial / "state.pt")
                (partial / "meta.json").write_bytes(
                    json.dumps({"format": CHECKPOINT_FORMAT, "step": step} | meta).encode()
                )
            # Only now: until the new one is whole the old one is the last good one.
            for old in self.folder.glob("step-*"):
                if old != target:
                    shutil.rmtree(old, ignore_errors=True)
        else:  # its shards go to the folder that the main process has made
            with writing(target, what, fix, note):
                write(hidden(target) / "state.pt")
        # The cost of this save decides how soon the next one is worth it.
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes a run's state so that reading it runs no code: tensors to state.pt, the rest to state.json."""
    # torch reads a file of tensors without running code; JSON cannot hold any.
    tensors = {name: value for name, value in state.items() if _holds_tensors(value)}
    torch.save(tensors, folder / "state.pt")
    plain = {name: value for name, value in state.items() if name not in tensors}
    (folder / "state.json").write_bytes(json.dumps(plain).encode())


def read_state(folder: Path) -> dict[str, Any]:
    """The inverse of `write_state`, but that tuples come back as lists."""
    plain: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return plain | read_tensors(folder / "state.pt")


def read_tensors(path: Path) -> dict[str, Any]:
    """Tensors, numbers and text of a file that torch wrote. Code in it would not be run: it is refused.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one class for it
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            "out",
            str(path),
            f"cannot be read as tensors ({type(error).__name__}: {reason})",
            "remove the file's folder, and begin this run anew",
        ) from error
    return found


def _holds_tensors(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, torch.Tensor) or any(map(_holds_tensors, values))


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
