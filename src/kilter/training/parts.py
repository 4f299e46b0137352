"""The moving parts of one run, and their state for a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kilter.artifacts import AGAIN, write_by
from kilter.models.reference import LiveReference
from kilter.training.checkpoint import read_tensors
from kilter.training.kl_control import KLController
from kilter.training.learner import LocalLearner
from kilter.training.monitors import EnergyProbe, GoldEvaluator, GoldHistory, Monitors
from kilter.training.sources.fixed import FixedSource
from kilter.training.sources.rollouts import RolloutSource
from kilter.types import Encoded


@dataclass
class Parts:
    """Learner and source, and for online runs what watches and steers them."""

    learner: LocalLearner
    source: FixedSource | RolloutSource
    held: Sequence[Encoded]
    identity: str
    tokens: int = 0
    step_seconds: float = 0.0
    gold: GoldEvaluator | None = None
    history: GoldHistory = field(default_factory=GoldHistory)
    monitors: Monitors | None = None
    controller: KLController | None = None
    energy: EnergyProbe | None = None
    keep_best: bool = False
    best_path: Path | None = None
    stopped: str | None = None

    def state(self, folder: Path) -> dict[str, Any]:
        """Everything that a resumed run needs to continue exactly; every rank must call it. Shards of weights go to `folder`."""
        state: dict[str, Any] = {
            "learner": self.learner.state(folder),
            "source": self.source.state(),
            "tokens": self.tokens,
            "step_seconds": self.step_seconds,
        }
        if self.monitors is not None:
            state["monitors"] = self.monitors.state()
        if self.gold is not None and hasattr(self.gold.gold, "state"):
            state["gold"] = self.gold.gold.state()
        if self.controller is not None:
            state["kl"] = self.controller.value
        moved = self.learner.spec.refresh_reference_every and isinstance(
            self.learner.reference, LiveReference
        )
        if moved and isinstance(self.learner.reference, LiveReference):
            state["reference"] = self.learner.reference.state()
        return state

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `state`; the monitors are restored by whoever makes them."""
        self.learner.restore(state["learner"], folder)
        self.source.restore(state["source"])
        self.tokens, self.step_seconds = int(state["tokens"]), float(state["step_seconds"])
        if self.controller is not None:
            self.controller.value = state["kl"]
        if "gold" in state and self.gold is not None and hasattr(self.gold.gold, "restore"):
            self.gold.gold.restore(state["gold"])
        if "reference" in state and isinstance(self.learner.reference, LiveReference):
            self.learner.reference.restore(state["reference"])

    def keep(self, step: int) -> None:
        """Keeps the trained weights when this step has the best gold score so far; the file appears by rename."""
        if not self.keep_best or self.best_path is None or self.history.best() != step:
            return
        weights = self.learner.engine.state(self.learner.module)
        if self.learner.engine.is_main:
            write_by(
                self.best_path,
                lambda partial: torch.save({"step": step, "model": weights}, partial),
                what=f"the best weights so far, of step {step},",
                fix=f"free disk space, or set monitors.keep_best: false; then {AGAIN}",
            )

    def best_weights(self) -> int | None:
        """Puts the best-gold weights back when the last step is not the best; returns their step."""
        best = self.history.best()
        if (
            not self.keep_best
            or self.best_path is None
            or best is None
            or not self.best_path.exists()
            or best == self.source.position
        ):
            return None
        kept = read_tensors(self.best_path)
        target = dict(self.learner.scorer.named_parameters())
        with torch.no_grad():
            for name, value in kept["model"].items():
                target[name].copy_(value)
        return int(kept["step"])
