"""Loss and metrics on the held-out groups, every few steps and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilter.batch import Batch, Metrics, Objective
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
        learner, engine = self.learner, self.learner.engine
        # A process without a group of its own takes part all the same: collectives must match.
        batch = learner.collect(self.groups[engine.rank :: engine.world])
        batch = learner.prepare(learner.annotate(batch, self.objective.needs), self.objective)

        # Sums and weights are added over the processes before they are divided: never an average of averages.
        means = learner.means(learner.evaluate(batch, self.objective))
        return {f"eval_{name}": value for name, value in means.items()}
