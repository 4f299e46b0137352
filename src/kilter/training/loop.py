"""THE loop.

Fixed data or fresh rollouts, row, group or batch objective, one process or many: all the same lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kilter.batch import Batch, Objective
from kilter.seams import Hook, Source, Step, Stop
from kilter.training.learner import LocalLearner


def loop(
    source: Source, learner: LocalLearner, objective: Objective, hooks: Hooks, done: int | None
) -> tuple[dict[str, Any], Stop | None]:
    """Takes optimizer steps until the source is exhausted or a hook ends the run.

    Args:
        source: gives the groups of each step.
        learner: owns the models and the optimizer.
        objective: what is learned.
        hooks: everything else that happens around a step.
        done: steps of the checkpoint that the run goes on from, None for a fresh run.

    Returns:
        The record of the last step, empty without one, and why the run ended early, None if it did not.
    """
    record: dict[str, Any] = {}
    error: BaseException | None = None
    try:
        stop = hooks.before_run(done)
        while stop is None and (step := source.next()) is not None:
            # What the step learns from: tokens, then the log-probs and values that the method named, then
            # credit.
            batch = hooks.before_update(learner.collect(step.groups))
            batch = learner.prepare(learner.annotate(batch, objective.needs), objective)

            # The optimizer steps: inner epochs, mini-batches, micro-batches.
            record = {"step": step.number, "epoch": round(step.epoch, 4)}
            record |= learner.update(batch, objective, step.number)
            source.after_update(learner.weights)

            # Metrics, monitors, checkpoints: each looks at the step that was taken.
            stop = hooks.after_step(step, batch, record)
    except BaseException as failure:
        error = failure
        raise
    finally:
        hooks.close(error)
    return record, stop


@dataclass
class Hooks:
    """Hooks in their order, as one."""

    members: Sequence[Hook] = ()

    def before_run(self, done: int | None) -> Stop | None:
        """All of them begin; the first Stop counts."""
        stops = [hook.before_run(done) for hook in self.members]
        return next((stop for stop in stops if stop is not None), None)

    def before_update(self, batch: Batch) -> Batch:
        """Each sees what the one before it made of the batch."""
        for hook in self.members:
            batch = hook.before_update(batch)
        return batch

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> Stop | None:
        """In order, up to the first Stop."""
        for hook in self.members:
            if (stop := hook.after_step(step, batch, record)) is not None:
                return stop
        return None

    def state(self) -> dict[str, Any]:
        """The state of every hook that has one, by name."""
        return {hook.name: state for hook in self.members if (state := hook.state())}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for hook in self.members:
            if hook.name in state:
                hook.restore(state[hook.name])

    def close(self, error: BaseException | None) -> None:
        """The last hook closes first; one that fails to close does not keep the others from it."""
        with contextlib.ExitStack() as stack:
            for hook in self.members:
                stack.callback(hook.close, error)
