"""Groups of a data set, in an order that follows from the seed."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kilter.data.shelf import picked
from kilter.seams import Step
from kilter.types import Encoded, Weights


@dataclass
class FixedSource:
    """Source over encoded groups.

    The order follows from (seed, epoch) alone, so `position` is its whole state.

    With several processes each takes every world-th group of a step, so that a step does not depend on their
    number. A step of fewer groups than processes leaves some without any.

    Args:
        groups: all groups, those of the other processes included.
        batch_size: groups per optimizer step, over all processes.
        epochs: passes over the groups.
        max_steps: optimizer steps; overrides epochs.
    """

    groups: Sequence[Encoded]
    batch_size: int
    epochs: float = 1.0
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world: int = 1
    position: int = 0

    def __post_init__(self) -> None:
        starts = list(range(0, len(self.groups), self.batch_size))
        self._bounds = list(zip(starts, [*starts[1:], len(self.groups)], strict=True))
        self._epoch, self._order = -1, list(range(len(self.groups)))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass."""
        return len(self._bounds)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def _indices(self, step: int) -> list[int]:
        """The groups of the step with this 0-based number, those of all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self.groups)))
            # The order follows from the pass alone: a resumed run needs no other state.
            if self.shuffle:
                random.Random(f"{self.seed}:{epoch}").shuffle(self._order)
        first, last = self._bounds[place]
        return self._order[first:last]

    def rows(self, number: int) -> Sequence[Encoded]:
        """The groups of the step with this 1-based number, those of all processes."""
        return [self.groups[i] for i in self._indices(number - 1)]

    def visited(self) -> Sequence[Encoded]:
        """The groups that the run reads, in the data's order: all, unless it ends within the first pass."""
        if self.total_steps >= self.steps_per_epoch:
            return self.groups
        return picked(self.groups, sorted({i for n in range(self.total_steps) for i in self._indices(n)}))

    def next(self) -> Step | None:
        """The next step, None after the last one."""
        asked = time.monotonic()
        if self.position >= self.total_steps:
            return None
        # Every process takes every world-th group, so that all have groups of every kind.
        mine = self._indices(self.position)[self.rank :: self.world]
        self.position += 1
        return Step(
            self.position, self.position / self.steps_per_epoch, asked, [self.groups[i] for i in mine]
        )

    def after_update(self, weights: Weights) -> None:
        """Nothing: files do not change."""

    def state(self) -> dict[str, Any]:
        """The number of steps handed out."""
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.position = state["position"]

    def close(self) -> None:
        """Does nothing: fixed data holds no process or file."""
