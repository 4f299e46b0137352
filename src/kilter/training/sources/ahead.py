"""Lookahead: batches of prompts that are sampled before the weights are known that they will train.

Batch m may begin when the samplers have the weights after m - lookahead steps. Every token of a batch is then
at most `lookahead` updates old when it trains, whatever the timing. Batches train in the order of the data,
nothing is dropped, and a run resumes by numbers: what was under way is sampled again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilter.training.sources.answers import Asked
from kilter.training.sources.prompts import PromptOrder
from kilter.types import Prompt


@dataclass(frozen=True, eq=False)
class Admitted:
    """A batch under way.

    Args:
        step: 0-based number of the batch.
        start: prompts that were taken before its first one.
        epoch: passes over the prompts when it was taken.
        prompts: of all processes.
        asked: this process's share of them.
    """

    step: int
    start: int
    epoch: float
    prompts: Sequence[Prompt]
    asked: Asked


@dataclass
class Ahead:
    """The batches under way, in the order of the data.

    Args:
        order: hands out prompts.
        size: prompts of a batch.
        begin: sends off this process's share of prompts, for a 0-based step.
        lookahead: batches beyond the present one that may be under way.
    """

    order: PromptOrder
    size: int
    begin: Callable[[Sequence[Prompt], int], Asked]
    lookahead: int = 0
    under_way: deque[Admitted] = field(default_factory=deque)
    _again: deque[int] = field(default_factory=deque)

    def admit(self, position: int, total: int) -> None:
        """Begins all that may begin.

        Args:
            position: steps that are done; the samplers have the weights after them.
            total: steps of the run.
        """
        last = min(position + self.lookahead, total - 1)
        for step in range(position + len(self.under_way), last + 1):
            self.under_way.append(self._taken(step))

    def _taken(self, step: int) -> Admitted:
        """The next batch; after a resumption first those that were under way, from where they began."""
        newest = self.order.taken
        if self._again:
            self.order.taken = self._again.popleft()
        start = self.order.taken
        prompts = self.order.take(self.size)
        found = Admitted(step, start, self.order.epoch, prompts, self.begin(prompts, step))
        self.order.taken = max(newest, self.order.taken)
        return found

    def first(self) -> Admitted:
        """The batch that trains next. It stays under way until `done`."""
        return self.under_way[0]

    def done(self) -> None:
        """The first batch has become a step."""
        self.under_way.popleft()

    def state(self) -> dict[str, Any]:
        """How many prompts were taken, and where the batches under way began."""
        starts = [a.start for a in self.under_way] + list(self._again)
        taken = self.order.taken
        # Batches that nothing was taken after are simply taken again.
        while starts and starts[-1] + self.size == taken:
            taken = starts.pop()
        return {"cursor": taken} | ({"under_way": starts} if starts else {})

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.order.taken = state["cursor"]
        self.under_way.clear()
        self._again = deque(state.get("under_way", ()))
