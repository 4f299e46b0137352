"""The moving parts of one run, and their state for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilter.batch import Objective
from kilter.seams import Source
from kilter.training.checkpoint import rng_state, set_rng_state
from kilter.training.hooks.account import Account
from kilter.training.hooks.early_stopping import StopEarly
from kilter.training.hooks.gold import GoldEvidence
from kilter.training.hooks.heldout import HeldOut
from kilter.training.hooks.interrupts import StopRequest
from kilter.training.learner import LocalLearner
from kilter.training.loop import Hooks

HOOK = "hook "
"""Begins the key of a hook's state in a checkpoint; its name follows."""


@dataclass
class Run:
    """What assemble.py makes of a train stage.

    `account`, `heldout`, `gold` and `early` stand among the hooks as well.
    """

    objective: Objective
    learner: LocalLearner
    source: Source
    account: Account
    heldout: HeldOut
    signals: StopRequest
    identity: str
    gold: GoldEvidence | None = None
    early: StopEarly | None = None
    hooks: Hooks = field(default_factory=Hooks)

    def state(self, folder: Path) -> dict[str, Any]:
        """Everything that a resumed run needs to continue exactly; every rank must call it.

        Shards go to `folder`.
        """
        # Random states too: dropout of adapters draws from them.
        state = {"learner": self.learner.state(folder), "source": self.source.state(), "rng": rng_state()}
        return state | {f"{HOOK}{name}": value for name, value in self.hooks.state().items()}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `state`."""
        self.learner.restore(state["learner"], folder)
        self.source.restore(state["source"])
        self.hooks.restore({k.removeprefix(HOOK): v for k, v in state.items() if k.startswith(HOOK)})
        # Last of all: restoring may itself have drawn numbers.
        set_rng_state(state["rng"])
