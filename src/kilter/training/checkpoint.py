"""Checkpoints that are whole or absent, and the rule for how often to take one.

A checkpoint is a folder that appears by rename. `auto` saves whenever the time since the last save is at least 20 times
what a save costs, so checkpoints take under 5 % of the time: every step for a small adapter, every minute or so for
full weights on a slow disk.
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


@dataclass
class Checkpoints:
    """Checkpoints of one run under `folder`; only the newest whole one is kept."""

    folder: Path
    every: int | Literal["auto"] = "auto"
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = sorted(self.folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
        return found[-1] if found else None

    def due(self, step: int) -> bool:
        """Whether to save after this many completed steps."""
        if isinstance(self.every, int):
            return step % self.every == 0
        return time.monotonic() - self._saved_at >= 20 * self._cost

    def pin(self, step: int, is_main: bool = True) -> None:
        """Keeps the checkpoint of this step beside the others, under pinned/; the first one pinned and the last one stay. Hard links cost no space twice."""
        source, kept = self.folder / f"step-{step}", self.folder.parent / "pinned"
        if not is_main or not source.is_dir():
            return
        target = kept / source.name
        if not target.exists():
            shutil.copytree(source, target, copy_function=_link)
        between = sorted(kept.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))[1:-1]
        for old in between:
            shutil.rmtree(old, ignore_errors=True)

    def save(
        self, step: int, write: Callable[[Path], None], meta: dict[str, Any], is_main: bool = True
    ) -> None:
        """A whole checkpoint, which replaces the older ones. A full disk raises RunFailed naming the last good one."""
        start = time.monotonic()
        target, last = self.folder / f"step-{step}", self.latest()
        what, fix = (
            f"the checkpoint of step {step}",
            f"free disk space or choose another output folder, then {AGAIN}",
        )
        note = f"last good checkpoint: {last or 'none yet'}"
        if is_main:
            with whole_folder(target, what, fix, note) as partial:
                write(partial / "state.pt")
                (partial / "meta.json").write_bytes(json.dumps({"step": step} | meta).encode())
            for old in self.folder.glob("step-*"):
                if old != target:
                    shutil.rmtree(old, ignore_errors=True)
        else:  # its shards go to the folder that the main process has made
            with writing(target, what, fix, note):
                write(hidden(target) / "state.pt")
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def rng_state() -> dict[str, Any]:
    """Random states of Python, numpy and torch."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
