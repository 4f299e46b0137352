"""Gold evidence every few steps, and the weights that had the best of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import AGAIN, read_json, remove, write_by, write_json
from kilter.batch import Batch
from kilter.errors import UserError
from kilter.seams import Hook, Step
from kilter.training.checkpoint import Seal
from kilter.training.learner import LocalLearner
from kilter.training.monitors import GoldEvaluator, Monitors
from kilter.training.monitors.gold import Evidence
from kilter.training.state_file import read_values, write_values

BEST = "best.safetensors"
"""The best weights so far, in a stage's folder."""


class BestWeights:
    """The trained weights of the best step so far, in one file.

    Args:
        path: of the file.
        learner: whose weights they are.
        without: what a person sets to do without them, for messages.
    """

    def __init__(
        self, path: Path, learner: LocalLearner, without: str = "set monitors.keep_best: false"
    ) -> None:
        self.path, self.learner, self.without = path, learner, without
        self._seal = path.with_suffix(".json")

    def keep(self, step: int) -> None:
        """Writes the present weights. Every rank must call it."""
        weights = self.learner.taught()
        # Gathering shards took every rank; the file takes one.
        if self.learner.engine.is_main:
            write_by(
                self.path,
                lambda partial: write_values(partial, {"step": step, "model": weights}),
                what=f"the best weights so far, of step {step},",
                fix=f"free disk space, or {self.without}; then {AGAIN}",
            )
            write_json(self._seal, Seal().over(self.path)._asdict())

    def put_back(self) -> int:
        """Loads the kept weights into the model; returns their step."""
        # They are put back long after they were written: damage must not pass for the best model.
        seal = read_json(self._seal, f"remove {self.path.parent} to begin this run anew")
        if Seal(**seal) != Seal().over(self.path):
            raise UserError(
                "out",
                str(self.path),
                "is damaged: these are not the weights that were kept for their gold score",
                f"put the file back, or remove {self.path.parent} to begin this run anew",
            )
        # Trained weights alone: what is frozen has never changed.
        kept = read_values(self.path)
        self.learner.take(kept["model"])
        return int(kept["step"])


class GoldEvidence(Hook):
    """Asks the gold source on schedule, and when a cheap signal wants to know more.

    Args:
        gold: None where there is no gold source, or no held-out prompt.
        monitors: take the evidence, and keep the history of it.
        total: steps of the run; the last one is always judged.
        best: None where the last weights are wanted whatever their score.
    """

    name = "gold"

    def __init__(
        self,
        gold: GoldEvaluator | None,
        monitors: Monitors,
        learner: LocalLearner,
        total: int,
        best: BestWeights | None,
    ) -> None:
        self.gold, self.monitors, self.engine = gold, monitors, learner.engine
        self.total, self.best = total, best

    def before_run(self, done: int | None) -> None:
        """The first evidence is the start model's: every later one is compared with it."""
        history = self.monitors.gold
        history.load(done)
        # Every process decides by the same history, which only the main one has read.
        history.entries = self.engine.gather(history.entries)[0]
        # A file from a run that was begun anew would be put back at the end of this one.
        if done is None and self.best is not None:
            remove(self.best.path)
        if self.gold is not None and not history.entries:
            first = self._found()
            first.require()
            self.monitors.evidence(0, first)
            self._keep(0)

    def after_step(self, step: Step, batch: Batch, record: dict[str, Any]) -> None:
        """Adds gold/* metrics where evidence was due on any process."""
        # A gold source may sample and score together: one process that wants evidence brings all to it.
        due = bool(self.engine.max(int(self.monitors.due(step.number))))
        if self.gold is not None and (due or step.number == self.total):
            found = self._found(self.monitors.gold.first_answers())
            record |= self.monitors.evidence(step.number, found)
            self._keep(step.number)

    def _found(self, first: Sequence[str] = ()) -> Evidence:
        """The first process's: engines may have written other answers, and all processes decide alike."""
        assert self.gold is not None, "there is a gold source"
        found: Evidence = self.engine.gather(self.gold(first))[0]
        return found

    def _keep(self, step: int) -> None:
        # The earliest of equals is kept: training on did not pay.
        if self.best is not None and self.monitors.gold.best() == step:
            self.best.keep(step)

    def put_best_back(self, last: int) -> int | None:
        """Puts the best weights back if they are not the last step's.

        Returns:
            Their step; None if nothing changed.
        """
        best = self.monitors.gold.best()
        # The weights in memory are already the best, or there is no evidence which ones are.
        if self.best is None or best is None or best == last:
            return None
        return self.best.put_back()

    def state(self) -> dict[str, Any]:
        """The gold source's own, such as the scale of a reward model."""
        return {} if self.gold is None else self.gold.state()

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        if self.gold is not None:
            self.gold.restore(state)
