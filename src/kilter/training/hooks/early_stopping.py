"""Ends a run on fixed data where a held-out metric stops to improve, and keeps the best weights."""

from __future__ import annotations

from typing import Any

from kilter.artifacts import remove
from kilter.batch import Batch, Metrics
from kilter.errors import UserError, nearest
from kilter.screen import many
from kilter.seams import Hook, Step, Stop
from kilter.training.config import EarlyStopping
from kilter.training.hooks.gold import BestWeights
from kilter.training.hooks.heldout import HeldOut

LOWER = ("loss", "nll")
"""Metrics that improve as they fall."""


class StopEarly(Hook):
    """Follows one held-out metric from the start's own value on.

    Args:
        spec: which metric, and how patient.
        heldout: evaluates on rows that nothing else reports on; stands before this hook.
        best: keeps the weights of the best evaluation.
        total: steps of the run; the last one is always evaluated.
    """

    name = "early_stopping"

    def __init__(self, spec: EarlyStopping, heldout: HeldOut, best: BestWeights, total: int) -> None:
        self.spec, self.heldout, self.best, self.total = spec, heldout, best, total
        self.key = f"eval_{spec.metric.removeprefix('eval_')}"
        lower = spec.better == "lower" or (spec.better == "auto" and spec.metric.endswith(LOWER))
        self.sign = -1.0 if lower else 1.0
        self.value = float("-inf")
        """The best value so far, with the sign that makes more of it better."""
        self.step, self.since = 0, 0

    def before_run(self, done: int | None) -> None:
        """The start is the first candidate: a run that only makes it worse gives it back."""
        if done is None:
            remove(self.best.path)
            self._judge(0, self.heldout.evaluate())

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> Stop | None:
        """Judges the step's evaluation, if it had one. The record is on disk by then, its last line too."""
        metrics = self.heldout.evaluate() if step.number == self.total else record
        if self.key not in metrics:
            return None
        self._judge(step.number, metrics)

        # Without any progress in so many evaluations, more steps are not worth their time.
        if self.since < self.spec.patience or step.number == self.total:
            return None
        reason = f"{self.key} has not improved in {many(self.since, 'evaluations')}"
        return Stop(f"{reason}. It was best at step {self.step}: {self.sign * self.value:.4g}", planned=True)

    def _judge(self, step: int, metrics: Metrics) -> None:
        """Keeps the weights of this step if they are the best."""
        if self.key not in metrics:
            known = [key.removeprefix("eval_") for key in metrics if key.startswith("eval_")]
            fix = nearest(self.spec.metric, known, none="hold rows out: nothing is measured on held-out data")
            raise UserError(
                "early_stopping.metric", self.spec.metric, "is not measured on held-out data", fix
            )
        # Keeping weights and ending are done by all processes or by none: the first one decides.
        value = self.heldout.learner.engine.gather(self.sign * float(metrics[self.key]))[0]
        if value > self.value + self.spec.threshold:
            self.value, self.step, self.since = value, step, 0
            self.best.keep(step)
        else:
            self.since += 1

    def put_best_back(self, last: int) -> int | None:
        """Puts the best weights back if they are not the last step's; returns their step, else None."""
        return None if self.step == last else self.best.put_back()

    def state(self) -> dict[str, Any]:
        """The best value so far, and how long ago it was."""
        return {"value": self.value, "step": self.step, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.value, self.step, self.since = state["value"], state["step"], state["since"]
