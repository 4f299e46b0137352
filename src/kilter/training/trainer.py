"""A train stage from its settings to the model on disk: assembled, resumed, run, exported."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kilter.artifacts import write_json
from kilter.cluster.backend import Backend
from kilter.cluster.pool import Restarts
from kilter.errors import Interrupted, RoleLost, RunFailed
from kilter.launch.spec import ClusterSpec
from kilter.models import adapters
from kilter.models.resolve import resolve as resolve_model
from kilter.objectives import build_objective, fitted, method_name
from kilter.runtime import peak_memory_gb
from kilter.screen import screen_of, styled
from kilter.seams import Stop
from kilter.training import restart, scorers
from kilter.training.apart.placed import Cluster, Connect, connect
from kilter.training.assemble import assemble
from kilter.training.balance import advice
from kilter.training.checkpoint import read_state
from kilter.training.checks import check_rollouts
from kilter.training.config import TrainSpec
from kilter.training.export import rehearse, save_model
from kilter.training.identity import reward_files
from kilter.training.job import Job
from kilter.training.loop import loop
from kilter.training.parallel.choose import make_engine
from kilter.training.result import TrainResult
from kilter.training.run import Run
from kilter.types import Group


@dataclass
class Trainer:
    """One train stage.

    Args:
        spec: the settings.
        start: model folder to begin from.
        train: training groups; where spec.prompts is set, their prompts are answered by the policy.
        heldout: groups that are not trained on.
        out: folder of the stage, resumed when it holds a checkpoint.
        reference: model folder of the reference policy, None for `start`.
        resolve: turns the name of a stage or model into its folder.
        certificates: judge.json files of the run.
        select: groups by which the best weights are chosen; None: the held-out ones.
        connect: opens the backend of a cluster, where the settings name one.
    """

    spec: TrainSpec
    start: Path
    train: Sequence[Group]
    heldout: Sequence[Group]
    out: Path
    reference: Path | None = None
    console: Console | None = None
    name: str = "train"
    resolve: Callable[[str], Path] = resolve_model
    certificates: Sequence[Path] = ()
    select: Sequence[Group] | None = None
    connect: Connect = connect

    def run(self) -> TrainResult:
        """Trains to the end. A role that is lost with all it learned costs the steps since the checkpoint.

        Raises:
            Interrupted, RunFailed: with everything up to the last checkpoint safe.
        """
        # To begin anew counts as one, over all attempts.
        left = Restarts(0 if self.spec.cluster is None else self.spec.cluster.restarts)
        begin, job = time.monotonic(), self._job(left)
        with contextlib.ExitStack() as ends:
            if job.cluster is not None:
                ends.callback(job.cluster.backend.close)
            while True:
                try:
                    with job.cluster or contextlib.nullcontext():
                        return self._train(job, begin)
                except RoleLost as error:
                    # Ranks of a group begin anew together, see parallel/launch.py.
                    if not left.left or job.engine.world > 1:
                        raise
                    left.left -= 1
                    lost = error.problem
                # The others' workers are still there.
                assert job.cluster is not None, "what is lost was elsewhere"
                job = self._job(left, job.cluster.backend)
                restart.note(self.out, self.name, self.spec.save_every, lost)
                # The attempt refers to itself in circles: its models go before others take their memory.
                gc.collect()

    def _train(self, job: Job, begin: float) -> TrainResult:
        """Assembles the run, takes its steps and exports the model."""
        spec = self.spec
        # Before any model is opened: a fresh head draws its weights.
        torch.manual_seed(spec.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        encoder = scorers.make_encoder(spec, self.start)
        scorer = scorers.make_scorer(job, encoder)
        if spec.adapter is not None:
            job.say(adapters.adapted_modules(scorer.policy.model))
        run = assemble(job, scorer, encoder)
        merge = spec.adapter is not None and spec.adapter.merge
        notes = rehearse(run.learner, encoder, job.engine, self.start, self.out, merge)
        for note in (*notes, *advice(scorer.policy, spec)):
            job.say(note)
        _describe(job, run)

        # From here on the run is one that a kill only interrupts.
        done = _resume(job, run)
        record, stop = _steps(job, run, done)
        if stop is not None:
            _say_stop(job, run, stop)

        if skipped := int(record.get("skipped_steps", 0)):
            job.say(f"{skipped} of {run.source.position} steps taught nothing: their answers scored alike")

        # The model that is kept, its held-out numbers, and the folder that others read.
        best = _put_best_back(job, run)
        final = run.heldout.evaluate()
        save_model(
            run.learner,
            encoder,
            job.engine,
            self.start,
            self.out,
            method_name(spec.method),
            merge=merge,
            dtype=spec.export_dtype,
        )
        job.engine.barrier()
        run.source.close()
        return TrainResult(
            self.out / "model",
            run.source.position,
            {k: v for k, v in record.items() if isinstance(v, int | float)},
            final,
            encoder.counts,
            time.monotonic() - begin,
            None if stop is None or stop.planned else stop.reason,
            best,
            run.account.tokens_per_second,
            round(run.account.seconds, 1),
            round(peak_memory_gb(), 2),
        )

    def _job(self, left: Restarts, backend: Backend | None = None) -> Job:
        """The settings with their objective and engine, checked before any model is loaded.

        Args:
            left: replacements that the run may still make.
            backend: of the cluster, where it is there already.
        """
        # Class weights and the like come from the data, before anything is built on them.
        spec, objective, note = self.spec, build_objective(self.spec.method), ""
        if spec.prompts is None:
            objective, note = fitted(objective, self.train[: spec.limit])
        if spec.prompts is not None:
            check_rollouts(spec, objective.needs)
        engine = make_engine(spec.engine, spec.fsdp, spec.zero, spec.max_grad_norm, spec.dtype)
        job = Job(
            spec,
            objective,
            self.start,
            self.train,
            self.heldout,
            self.out,
            self.reference,
            screen_of(self.console),
            self.name,
            self.resolve,
            engine,
            self.certificates,
            self.heldout if self.select is None else self.select,
        )
        if spec.cluster is not None:
            job = replace(job, cluster=self._cluster(spec.cluster, job, left, backend))
        if note:
            job.say(note)
        return job

    def _cluster(
        self, spec: ClusterSpec, job: Job, left: Restarts, backend: Backend | None
    ) -> Cluster | None:
        """The cluster, if any role lives there. It is not even connected to otherwise."""
        if all(role.place == "here" for role in spec.roles().values()):
            return None
        engine, backend = job.engine, backend or self.connect(spec)
        return Cluster(spec, backend, self.out, job.say, left, engine.rank, engine.world, engine.team)


def _steps(job: Job, run: Run, done: int | None) -> tuple[dict[str, Any], Stop | None]:
    """All steps that are left, see loop. Who asked the run to stop does not want it to begin anew."""
    try:
        with run.signals:
            return loop(run.source, run.learner, job.objective, run.hooks, done)
    except RoleLost as error:
        if not run.signals.received:
            raise
        said = f"Stopped; the steps up to the last checkpoint are saved in {job.out}."
        raise Interrupted(f"{said}\nTo resume: run the same command again.") from error


def _describe(job: Job, run: Run) -> None:
    """train.json: the settings, and what the monitors need to look at the logs again."""
    if job.engine.is_main:
        # By the names that a recipe uses, so that it can be pasted into one.
        settings = json.loads(job.spec.model_dump_json(by_alias=True))
        opponent = job.objective.needs.opponent is not None
        facts = {"total_steps": run.source.total_steps, "opponent": opponent}
        write_json(job.out / "train.json", settings | facts, indent=1)


def _resume(job: Job, run: Run) -> int | None:
    """Restores the newest whole checkpoint; returns the steps done, None without one."""
    found = job.checkpoints.find()
    if found is None:
        return None
    latest, meta = found
    for damage in job.checkpoints.damaged:
        job.say(f"{damage}; the run goes on from {latest}")
    # A reward that was mended between stop and resumption is used, and said.
    for path, now in reward_files(job.spec).items():
        if meta["rewards"].get(path, now) != now:
            job.say(f"{path} has changed since the checkpoint: its new version scores from here on")
    run.restore(read_state(latest), latest)
    job.say(f"resuming after step {run.source.position}")
    return run.source.position


def _say_stop(job: Job, run: Run, stop: Stop) -> None:
    """Keeps the model of a stopped run if there is gold evidence; without it, the run fails."""
    if stop.planned:
        job.say(f"ended at step {run.source.position} of {run.source.total_steps}: {stop.reason}")
        return
    failure = RunFailed(
        f"{job.name}: stopped by its monitors at step {run.source.position} of {run.source.total_steps}: "
        f"{stop.reason}",
        stop.fix,
        f"Events: {job.out / 'events.jsonl'}",
    )
    # Without evidence nobody knows whether this model is better than the first one.
    if stop.fails:
        raise failure
    if job.engine.is_main:
        job.console.print(styled("[bold red]{}[/]", failure), soft_wrap=True)


def _put_best_back(job: Job, run: Run) -> int | None:
    """The step whose weights are kept as the best, None where they are the last one's."""
    # The last model is not the best one where the reward was hacked, or where held-out rows got worse.
    keepers = {"gold score": run.gold, run.early.key if run.early is not None else "": run.early}
    for what, keeper in keepers.items():
        best = None if keeper is None else keeper.put_best_back(run.source.position)
        if best is not None:
            nothing = "" if best else ": that is the start, nothing was learned"
            job.say(f"the model of step {best} had the best {what} and is kept{nothing}")
            return best
    return None
