"""The batch of each optimizer step: the batch itself, or its parts in several shuffled passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kilter.batch import Batch, Objective
from kilter.training.parallel.engine import Engine


@dataclass(frozen=True)
class Passes:
    """How often a batch is gone through, and in how many parts.

    Args:
        epochs: passes.
        parts: of each pass.
        engine: of the learner.
        count: counts a batch over all ranks.
    """

    epochs: int
    parts: int
    engine: Engine
    count: Callable[[Batch], Batch]

    @property
    def steps(self) -> int:
        """Optimizer steps on one batch."""
        return self.epochs * self.parts

    def __call__(self, batch: Batch, seed: str, objective: Objective) -> Iterator[Batch]:
        """The parts of a batch, one after the other.

        Advantages stay those of the whole batch. Weights are those of the part, which is an optimizer step
        of its own.

        Args:
            batch: prepared.
            seed: gives the order.
            objective: gives a part its weights.
        """
        if self.steps == 1:
            yield batch
            return
        # Every pass has an order of its own, which a resumed run finds again. It is the order of all ranks'
        # groups, so that any number of processes takes the same steps.
        rank, world, total = self.engine.rank, self.engine.world, int(batch.n_groups_total)
        for epoch in range(self.epochs):
            order = list(range(total))
            random.Random(f"{seed}:{epoch}").shuffle(order)
            count = max(1, min(self.parts, total))
            for i in range(count):
                mine = [g // world for g in sorted(order[i::count]) if g % world == rank]
                yield self._part(batch, mine, objective)

    def _part(self, batch: Batch, groups: list[int], objective: Objective) -> Batch:
        """Some of the groups: denominators are counted anew, advantages are not."""
        part = self.count(batch.select_groups(groups))
        if not groups:
            return part
        own = objective.prepare(part)
        return part.with_(group_weight_N=own.group_weight_N, weight_BT=own.weight_BT, extra=own.extra)
