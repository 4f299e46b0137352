"""A train stage as the builders of a run see it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kilter.batch import Objective
from kilter.training.apart.placed import Cluster
from kilter.training.checkpoint import Checkpoints
from kilter.training.config import TrainSpec
from kilter.training.parallel.engine import Engine
from kilter.types import Group


@dataclass(frozen=True)
class Job:
    """What is asked for, and where.

    Args:
        spec: the settings.
        objective: the method, with the settings that it took from the data.
        start: model folder to begin from.
        train: groups; their prompts alone where the policy answers them.
        heldout: groups that are not trained on.
        out: folder of the stage, resumed where it holds a checkpoint.
        reference: model folder of the reference policy, None for `start`.
        console: where people read.
        name: of the stage, for people.
        resolve: turns the name of a stage or model into its folder.
        engine: one process or many.
        certificates: judge.json files of the run.
        select: groups by which the best weights are chosen.
        cluster: the roles that live elsewhere; None: all are here.
    """

    spec: TrainSpec
    objective: Objective
    start: Path
    train: Sequence[Group]
    heldout: Sequence[Group]
    out: Path
    reference: Path | None
    console: Console
    name: str
    resolve: Callable[[str], Path]
    engine: Engine
    certificates: Sequence[Path] = ()
    select: Sequence[Group] = ()
    cluster: Cluster | None = None

    def apart(self, role: str) -> Cluster | None:
        """The cluster, where a role has workers of its own there."""
        return self.cluster if self.cluster is not None and self.cluster.apart(role) else None

    @property
    def divided(self) -> bool:
        """Whether no process will hold the whole policy: it is sharded, and workers answer in its place."""
        elsewhere = self.cluster is not None and self.cluster.samples(self.spec.sampler.name)
        return self.engine.sharded and elsewhere

    @property
    def groups(self) -> Sequence[Group]:
        """The training groups, up to `limit`."""
        return self.train[: self.spec.limit]

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints in this stage's folder."""
        return Checkpoints(self.out / "checkpoints", self.spec.save_every)

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps per step of the loop: passes over its batch, each in parts."""
        # A method has a usual number of passes, which the user may overrule.
        return self.spec.minibatches * (self.spec.inner_epochs or self.objective.needs.inner_epochs)

    def say(self, text: str) -> None:
        """One line, from one process."""
        if self.engine.is_main:
            self.console.print(f"  {text}", soft_wrap=True)
