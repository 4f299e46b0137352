"""The account of a step: tokens, time, and what source and sampler measured."""

from __future__ import annotations

import time
from typing import Any

import torch

from kilter.batch import Batch
from kilter.seams import Hook, Step
from kilter.training.learner import LocalLearner


class Account(Hook):
    """Counts tokens and training time over the whole run, a resumed one's first part included."""

    name = "account"

    def __init__(self, learner: LocalLearner) -> None:
        self.learner, self.engine = learner, learner.engine
        self.tokens, self.seconds = 0, 0.0
        self._clock = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Over all optimizer steps, None before the first."""
        return round(self.tokens / self.seconds, 1) if self.seconds else None

    def before_update(self, batch: Batch) -> Batch:
        """Training time begins when the rollouts are there."""
        self._clock = time.monotonic()
        return batch

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Adds time and tokens, then the source's own metrics."""
        mine = sum(group.tokens() for group in step.groups)
        # A rate is that of the whole step: tokens of all processes over the time of this one.
        tokens = int(self.engine.sum(torch.tensor(float(mine))))
        now = time.monotonic()
        seconds = now - self._clock
        self.tokens += tokens
        self.seconds += seconds
        record |= {"step_time": round(now - step.asked, 3), "num_tokens": self.tokens}

        # Where no group of any process has a gradient nothing was computed, at no rate.
        active = bool(batch.groups()) if batch.active_N is None else bool(batch.active_N.any())
        if self.engine.max(int(active)):
            record |= {"tokens_per_second": round(tokens / max(seconds, 1e-9), 1)}
        # The source measured these before the step; they stand behind what the step itself gave.
        record |= {**step.metrics, **self.learner.mismatch}

    def state(self) -> dict[str, Any]:
        """Tokens and seconds so far."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.tokens, self.seconds = int(state["tokens"]), float(state["seconds"])
