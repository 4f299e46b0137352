"""Where the groups of each optimizer step come from. The loop cannot tell offline from online."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kilter.data.encode import Encoded


class Source(Protocol):
    """Yields the groups of one optimizer step at a time; `position` is the 0-based step that comes next."""

    position: int

    def __iter__(self) -> Iterator[list[Encoded]]:
        """The remaining steps, from `position` on."""
        ...

    def after_update(self) -> None:
        """Called after each step; online sources sync their sampler."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        ...


@dataclass
class Offline:
    """Groups from a data set. The order follows from (seed, epoch) alone, so `position` is its whole state.

    With several processes each takes every world-th group of a step; a tail smaller than `world` joins the step
    before it, so no process is ever without work and no group is dropped.
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
        size = max(self.batch_size, self.world)
        starts = list(range(0, len(self.groups), size))
        if len(starts) > 1 and len(self.groups) - starts[-1] < self.world:
            starts.pop()
        self._bounds = list(zip(starts, [*starts[1:], len(self.groups)], strict=True))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass."""
        return len(self._bounds)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def epoch_of(self, step: int) -> float:
        """Passes completed after the step with this 0-based index."""
        return (step + 1) / self.steps_per_epoch

    def _steps(self, first_step: int) -> Iterator[list[int]]:
        """The groups of each step from `first_step` on, all ranks', as indices."""
        epoch, order = -1, list(range(len(self.groups)))
        for step in range(first_step, self.total_steps):
            now, index = divmod(step, self.steps_per_epoch)
            if now != epoch:
                epoch, order = now, list(range(len(self.groups)))
                if self.shuffle:
                    random.Random(f"{self.seed}:{epoch}").shuffle(order)
            first, last = self._bounds[index]
            yield order[first:last]

    def visited(self) -> list[Encoded]:
        """The groups that the run reads at all, in the data's order; fewer than it holds where it ends before a whole pass."""
        if self.total_steps >= self.steps_per_epoch:
            return list(self.groups)
        return [self.groups[i] for i in sorted({i for step in self._steps(0) for i in step})]

    def __iter__(self) -> Iterator[list[Encoded]]:
        for step in self._steps(self.position):
            self.position += 1
            yield [self.groups[i] for i in step[self.rank :: self.world]]

    def after_update(self) -> None:
        """Nothing: files do not change."""

    def state(self) -> dict[str, Any]:
        """The step that comes next."""
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.position = state["position"]
