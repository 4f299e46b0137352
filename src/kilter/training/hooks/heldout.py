"""Loss and metrics on the held-out groups, every few steps and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kilter.batch import Batch, Metrics, Objective
from kilter.data.collate import collate
from kilter.seams import Hook, Step
from kilter.training.learner import LocalLearner
from kilter.types import Encoded


class HeldOut(Hook):
    """`every`: steps between evaluations, None for none before the end. `total`: steps of the run."""

    name = "heldout"

    def __init__(
        self,
        groups: Sequence[Encoded],
        learner: LocalLearner,
        objective: Objective,
        every: int | None,
        total: int,
    ) -> None:
        self.groups, self.learner, self.objective = groups, learner, objective
        self.every, self.total = every, total

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Adds eval_* metrics; the last step is evaluated after the run."""
        if self.every and step.number % self.every == 0 and step.number < self.total:
            record |= self.evaluate()

    def evaluate(self) -> Metrics:
        """eval_* metrics over the held-out groups, shared out over the processes; empty without groups."""
        if not self.groups:
            return {}
        engine = self.learner.engine
        # A process without a group of its own evaluates one twice rather than none: collectives must match.
        own = list(self.groups[engine.rank :: engine.world]) or list(self.groups[:1])
        batch = self.learner.annotate(collate(own), self.objective.needs)
        sums = self.learner.evaluate(self.objective.prepare(batch), self.objective)

        # Sums and weights are added over the processes before they are divided: never an average of averages.
        out: Metrics = {}
        for name in sorted(sums):
            total, weight = engine.sum(
                torch.stack([sums[name].total.float(), sums[name].weight.float()])
            ).tolist()
            # The loss is a sum whose denominators span all ranks already.
            weight = 1.0 if name == "loss" else weight
            if weight > 0:
                out[f"eval_{name}"] = total / weight
        return out
