"""THE loop. Offline or online, row, group or batch objective, one process or many: all the same lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kilter.artifacts import sha256_file, write_json
from kilter.batch import Fitted, Mean, Metrics, Objective
from kilter.data.collate import collate
from kilter.data.encode import Encoder
from kilter.errors import Interrupted, RunFailed, UserError
from kilter.models import adapters
from kilter.models.critic import ActorCritic
from kilter.models.forward import Scorer
from kilter.models.load import model_hash
from kilter.models.load import resolve as resolve_model
from kilter.models.reference import LiveReference
from kilter.objectives import build_objective, method_name
from kilter.objectives.rl.policy_gradient import PolicyGradient
from kilter.progress import SILENT, Display, Progress
from kilter.registry import user_files
from kilter.runtime import peak_memory_gb
from kilter.training import oversight, setup
from kilter.training.checkpoint import (
    CHECKPOINT_FORMAT,
    Checkpoints,
    read_state,
    rng_state,
    set_rng_state,
    write_state,
)
from kilter.training.checks import check_online
from kilter.training.config import TrainSpec
from kilter.training.export import save_model
from kilter.training.interrupts import StopRequest
from kilter.training.kl_control import KLController
from kilter.training.learner import LocalLearner, Origin
from kilter.training.live import LiveDisplay
from kilter.training.log import MetricsFile, Trackers, check_trackers, note
from kilter.training.monitors import EnergyProbe, Event, EventLog, Monitors
from kilter.training.parallel.choose import make_engine
from kilter.training.parallel.engine import Engine
from kilter.training.parts import Parts
from kilter.training.result import TrainResult
from kilter.training.sources.fixed import FixedSource
from kilter.training.sources.replay import replayable, sampled_at
from kilter.training.sources.rollouts import RolloutSource, trim
from kilter.types import Encoded, Group

log = logging.getLogger("kilter")


@dataclass
class Trainer:
    """One train stage. `start`: model folder to begin from; `out`: stage folder, resumed when it holds a checkpoint.

    Online (spec.prompts), `train` and `heldout` give prompts; `resolve` turns stage or model names into folders.
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

    def run(self) -> TrainResult:
        """Trains to the end, or raises Interrupted / RunFailed with everything up to the last checkpoint safe."""
        begin = time.monotonic()
        spec, objective = self.spec, build_objective(self.spec.method)
        fitted = ""
        if isinstance(objective, Fitted) and spec.prompts is None:
            objective, fitted = objective.fit(self.train[: spec.limit])
        check_trackers(spec.trackers)
        engine = make_engine(spec.engine, spec.fsdp, spec.zero, spec.max_grad_norm)
        self._console, self._is_main = self.console or Console(stderr=True), engine.is_main
        torch.manual_seed(spec.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        if fitted and engine.is_main:
            self._console.print(f"  {fitted}", highlight=False)
        encoder = setup.make_encoder(spec, self.start)
        scorer = setup.make_scorer(spec, self.start, objective, encoder, self.resolve, engine)
        if engine.is_main and spec.adapter is not None:
            self._console.print(
                f"  {adapters.adapted_modules(setup.policy_of(scorer).model)}", highlight=False
            )
        parts = (self._online if spec.prompts is not None else self._offline)(
            objective, scorer, encoder, engine
        )
        if engine.is_main:
            facts = {
                "total_steps": parts.source.total_steps,
                "opponent": objective.needs.opponent is not None,
            }
            write_json(
                self.out / "train.json", json.loads(spec.model_dump_json(by_alias=True)) | facts, indent=1
            )

        checkpoints = Checkpoints(self.out / "checkpoints", spec.save_every)
        done = self._resume(checkpoints, parts)
        if done and engine.is_main:
            self._console.print(f"  resuming after step {done}", highlight=False)
        metrics = self._loop(parts, objective, checkpoints, engine, done)

        best = parts.best_weights()
        if best is not None:
            self._say(
                engine,
                f"  the model of step {best} had the best gold score and is kept{'' if best else ': that is the start, nothing was learned'}",
            )
        final = self._evaluate(parts.learner, objective, parts.held, engine) if parts.held else {}
        save_model(
            parts.learner,
            encoder,
            engine,
            self.start,
            self.out,
            method_name(spec.method),
            merge=spec.adapter is not None and spec.adapter.merge,
        )
        engine.barrier()
        return TrainResult(
            self.out / "model",
            parts.source.position,
            metrics,
            final,
            encoder.counts,
            time.monotonic() - begin,
            parts.stopped,
            best,
            round(parts.tokens / parts.step_seconds, 1) if parts.step_seconds else None,
            round(parts.step_seconds, 1),
            round(peak_memory_gb(), 2),
        )

    def _offline(
        self, objective: Objective, scorer: Scorer | ActorCritic, encoder: Encoder, engine: Engine
    ) -> Parts:
        """Everything for training on fixed groups."""
        spec = self.spec
        groups = self.train[: spec.limit] if spec.limit else self.train
        needs, heldout = objective.needs, self.heldout
        if needs.shape == "rollouts":
            groups = replayable(groups, needs)
            self._say(
                engine,
                f"  no feedback given: training replays the {len(groups)} scored groups of the data; --feedback samples fresh answers",
            )
        if needs.label is not None:
            judged = len(groups)
            groups, heldout = setup.with_label(groups, needs.label), setup.with_label(heldout, needs.label)
            if len(groups) < judged:
                self._say(
                    engine,
                    f"  data: {judged - len(groups)} of {judged} answers left out: this method learns from those labelled {bool(needs.label)} alone",
                )
            if not groups:
                raise UserError(
                    "data",
                    f"{len(self.train)} rows",
                    f"holds no answer labelled {bool(needs.label)}",
                    "this method learns from those alone; choose another",
                )
        encoded = encoder.encode_all(groups, "data", f"{len(groups)} groups")
        held = [] if needs.shape == "rollouts" else [e for e in map(encoder.encode, heldout) if e is not None]
        encoded, held = (
            setup.arrange(encoded, needs, spec.max_length),
            setup.arrange(held, needs, spec.max_length, encoded),
        )
        if encoder.counts:
            self._say(engine, "  data: " + ", ".join(f"{n} {what}" for what, n in encoder.counts.items()))
        rollouts = needs.shape == "rollouts"
        temperature = sampled_at(groups, spec.sampler.temperature) if rollouts else 1.0
        source = FixedSource(
            encoded,
            spec.batch_size,
            spec.epochs,
            spec.max_steps,
            spec.shuffle,
            spec.seed,
            engine.rank,
            engine.world,
        )
        identity = self._identity([*encoded, *held])
        self._refuse_another_run(identity)
        cache = None
        if "ref_logps" in objective.needs.annotations:
            folder = self.reference or self.start
            policy = setup.policy_of(scorer)
            cache = setup.fill_reference_cache(
                spec,
                policy,
                folder,
                folder == self.start,
                [*source.visited(), *held],
                encoder,
                engine,
                self._console,
                self.name,
                temperature,
            )
        steps = source.total_steps * spec.minibatches * (spec.inner_epochs or needs.inner_epochs)
        learner = LocalLearner(
            scorer, needs, spec, steps, engine, cache, temperature, "replay" if rollouts else "own"
        )
        return Parts(learner, source, held, identity)

    def _online(
        self, objective: Objective, scorer: Scorer | ActorCritic, encoder: Encoder, engine: Engine
    ) -> Parts:
        """Everything for training on answers of the policy."""
        spec, needs = self.spec, objective.needs
        if spec.fsdp:
            raise UserError(
                "fsdp",
                True,
                "cannot sample from sharded weights",
                "leave fsdp out: several processes then train with DDP",
            )
        check_online(spec, needs)
        if engine.world > spec.batch_size:
            raise UserError(
                "batch_size",
                spec.batch_size,
                f"is less than the {engine.world} processes",
                "give every process a prompt per step",
            )
        identity = self._identity(())
        self._refuse_another_run(identity)
        policy = setup.policy_of(scorer)
        folder = self.reference or self.start
        wanted = "ref_logps" in needs.annotations or needs.opponent is not None
        frozen = setup.frozen_reference(spec, policy, folder, self.start, encoder, engine) if wanted else None
        source = setup.make_source(
            spec, objective, self.train, policy, encoder, self.start, frozen, self.out, self.resolve, engine
        )
        steps = source.total_steps * spec.minibatches * (spec.inner_epochs or needs.inner_epochs)
        origin: Origin = (
            "engine" if not source.answers.samplers[0].exact else "own" if needs.opponent is None else "mixed"
        )
        learner = LocalLearner(scorer, needs, spec, steps, engine, None, spec.sampler.temperature, origin)
        if wanted:
            learner.reference = LiveReference(
                policy, frozen, learner.amp, spec.sampler.temperature, learner.reference_rows
            )
        parts = Parts(learner, source, [], identity)
        parts.gold = setup.make_gold(spec, self.heldout, source, encoder, policy, self.resolve)
        parts.controller = (
            KLController(spec.kl_control, objective.beta) if isinstance(objective, PolicyGradient) else None
        )
        parts.energy = EnergyProbe(policy) if spec.monitors.enabled else None
        parts.keep_best, parts.best_path = spec.monitors.keep_best, self.out / "best.pt"
        return parts

    def _identity(self, groups: Sequence[Encoded]) -> str:
        """Hash of what makes a run this run: configuration, start weights, tokens. A checkpoint of another is refused."""
        digest = hashlib.sha256(
            self.spec.model_dump_json(
                exclude={"save_every", "trackers", "engine", "processes", "fsdp", "zero", "eval_every"}
            ).encode()
        )
        digest.update(f"{CHECKPOINT_FORMAT}|{model_hash(self.start)}".encode())
        for path in self._files(
            "method"
        ):  # a reward's file is no part of it: one that failed may be mended, and the run goes on
            digest.update(path.read_bytes())
        for e in groups:
            digest.update(repr((e.prompt_ids, e.completion_ids)).encode())
        if self.spec.prompts is not None:
            for g in self.train:
                digest.update(repr((g.prompt.messages, g.prompt.text)).encode())
        return digest.hexdigest()

    def _files(self, field: str) -> list[Path]:
        """The user's own files that a field names."""
        return user_files(json.loads(self.spec.model_dump_json(include={field})))

    def _reward_files(self) -> dict[str, str]:
        """The user's reward functions by file, with a hash of each: they may change between a stop and its resumption."""
        return {str(p): sha256_file(p) for p in self._files("feedback")}

    def _refuse_another_run(self, identity: str) -> None:
        """Raises UserError when the folder holds a checkpoint of a run with other settings, before anything long begins."""
        meta = Checkpoints(self.out / "checkpoints", self.spec.save_every).meta()
        if meta is not None and meta["identity"] != identity:
            raise UserError(
                "out",
                str(self.out),
                f"holds a checkpoint of another run (method {meta['method']}, step {meta['step']})",
                "choose another folder, use the same settings to resume it, or remove its checkpoints/",
            )

    def _say(self, engine: Engine, text: str) -> None:
        """One line from one rank."""
        if engine.is_main:
            self._console.print(text, highlight=False)

    def _resume(self, checkpoints: Checkpoints, parts: Parts) -> int:
        """Restores the newest checkpoint; returns the steps done, 0 without one."""
        latest, meta = checkpoints.latest(), checkpoints.meta()
        if latest is not None and meta is not None:
            before = meta["rewards"]
            for path, now in self._reward_files().items():
                if before.get(path, now) != now:
                    self._say(
                        parts.learner.engine,
                        f"  {path} has changed since the checkpoint: its new version scores from here on",
                    )
            state = read_state(latest)
            parts.restore(state, latest)
            set_rng_state(state["rng"])
        done = parts.source.position
        if isinstance(parts.source, RolloutSource):
            trim(parts.source.path, done)  # rollouts of steps that will be done again
            parts.history.path = self.out / "gold.jsonl" if self._is_main else None
            parts.history.load(done if latest is not None else -1)
            parts.history.entries = parts.learner.engine.gather(parts.history.entries)[0]
            log = EventLog(
                self.out / "events.jsonl" if self._is_main else None, done if latest is not None else -1
            )
            parts.monitors = Monitors(
                self.spec.monitors,
                log,
                parts.history,
                parts.source.total_steps,
                self.spec.monitors.allow_truncation,
            )
            if latest is not None and "monitors" in state:
                parts.monitors.restore(state["monitors"])
                parts.stopped = parts.monitors.stop
            elif parts.best_path is not None:
                parts.best_path.unlink(missing_ok=True)
        return done

    def _loop(
        self, parts: Parts, objective: Objective, checkpoints: Checkpoints, engine: Engine, done: int
    ) -> Metrics:
        spec, source, learner = self.spec, parts.source, parts.learner
        total = source.total_steps
        record: dict[str, Any] = {}
        metrics_file = MetricsFile(self.out / "metrics.jsonl", done) if engine.is_main else None
        trackers = Trackers(
            spec.trackers if engine.is_main else [], self.out / "trackers", spec.model_dump(mode="json")
        )
        title = f"{self.name}: {method_name(spec.method)}"
        live = (
            LiveDisplay(self._console, title, total, done)
            if parts.monitors is not None and self._console.is_terminal and engine.is_main
            else None
        )
        shown = live is None and engine.is_main
        display: Progress = Display(self._console, title, total, done) if shown else SILENT

        def save(step: int) -> None:
            def write(path: Path) -> None:
                state = parts.state(path.parent) | {"rng": rng_state()}
                if engine.is_main:
                    write_state(path.parent, state)

            checkpoints.save(
                step,
                write,
                {
                    "method": method_name(spec.method),
                    "identity": parts.identity,
                    "rewards": self._reward_files(),
                },
                engine.is_main,
            )

        def show(step: int, event: str, detail: str) -> None:
            if parts.monitors is not None and engine.is_main:
                parts.monitors.log.add(
                    Event(
                        step,
                        1,
                        "warn",
                        event,
                        f"{event}: {detail}",
                        step,
                        "certain",
                        "noted; the run goes on",
                    )
                )
                if live is None:
                    self._console.print(f"  [yellow]{event}[/]: {detail}", highlight=False)

        if isinstance(source, RolloutSource):
            source.tell = show
        between = True
        follows_reward = (
            isinstance(learner.scorer, ActorCritic)
            and isinstance(source, RolloutSource)
            and setup.critic_is_the_reward(spec)
        )
        try:
            with StopRequest() as signals:
                if parts.gold is not None and parts.monitors is not None and not parts.history.entries:
                    first = parts.gold()
                    first.require()
                    parts.monitors.evidence(0, first)
                    parts.keep(0)
                begin = time.monotonic()
                while parts.stopped is None and (given := source.next()) is not None:
                    groups = given.groups
                    clock, between = time.monotonic(), False
                    if (
                        follows_reward
                        and isinstance(learner.scorer, ActorCritic)
                        and isinstance(source, RolloutSource)
                    ):
                        learner.scorer.adopt(*(source.feedback.scale_of("reward_model") or (0.0, 1.0)))
                    batch = collate(groups).with_(length_limit=spec.sampler.max_new_tokens)
                    if parts.controller is not None and spec.kl_control.mode != "fixed":
                        batch = batch.with_(kl_coef=torch.tensor(parts.controller.coefficient))
                    sampled = batch.sampling_logps_BT
                    batch = learner.prepare(learner.annotate(batch, objective.needs), objective)
                    metrics = _average(
                        [
                            learner.step(part, objective)
                            for part in learner.minibatches(batch, f"{spec.seed}:{given.number}", objective)
                        ]
                    )
                    source.after_update()
                    step = given.number
                    seen = int(engine.sum(torch.tensor(float(sum(g.tokens() for g in groups)))))
                    parts.tokens += seen
                    seconds = time.monotonic() - clock
                    parts.step_seconds += seconds
                    record = {"step": step, "epoch": round(given.epoch, 4)} | metrics
                    record |= {"step_time": round(time.monotonic() - begin, 3), "num_tokens": parts.tokens}
                    if batch.active_N is None or engine.max(
                        int(batch.active_N.any())
                    ):  # else nothing was computed, at no rate
                        record |= {"tokens_per_second": round(seen / max(seconds, 1e-9), 1)}
                    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                        last = checkpoints.latest()
                        if parts.monitors is not None:
                            what = f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']}"
                            parts.monitors.log.add(
                                Event(
                                    step,
                                    0,
                                    "stop",
                                    "nan",
                                    what,
                                    step,
                                    "certain",
                                    "the step was not taken; the run ended",
                                )
                            )
                        raise RunFailed(
                            f"{self.name}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']} at step {step}; the step was not taken\n"
                            f"  last good checkpoint: {last or 'none yet'}\n  fix: lower learning_rate, or use dtype: float32"
                        )
                    if spec.eval_every and step % spec.eval_every == 0 and parts.held and step < total:
                        record |= self._evaluate(learner, objective, parts.held, engine)
                    if parts.monitors is not None:
                        events = len(parts.monitors.log.events)
                        record |= oversight.watch(
                            parts, spec, batch, sampled, given, record, engine, self._console
                        )
                        # The state in which a cheap signal first named something is kept, whatever becomes of the run.
                        new = [e for e in parts.monitors.log.events[events:] if e.tier == 1]
                        if spec.monitors.pin and bool(engine.max(int(bool(new)))):
                            save(step)
                            checkpoints.pin(step, engine.is_main)
                    try:
                        if metrics_file is not None:
                            metrics_file.write(record)
                        trackers.write(record)
                    except OSError as error:
                        raise RunFailed(
                            f"{self.name}: metrics of step {step} could not be written ({error})\n  last good checkpoint: {checkpoints.latest() or 'none yet'}\n"
                            "  fix: free disk space, then run the same command again to resume"
                        ) from error
                    if live is not None and parts.monitors is not None:
                        live.step(step, record, parts.monitors.log.events, given.shown)
                    display.update(step, note(record))
                    between = True
                    if parts.monitors is not None and engine.max(int(parts.monitors.stop is not None)):
                        parts.stopped = parts.monitors.stop or "another process asked for it"
                        break
                    stop = bool(engine.max(int(signals.received)))
                    if stop or (step < total and bool(engine.max(int(checkpoints.due(step))))):
                        save(step)
                    if stop:
                        raise Interrupted(
                            f"stopped after step {step} of {total}; everything is saved in {self.out}\n  to resume: run the same command again"
                        )
                    begin = time.monotonic()
        except RunFailed:
            if (
                isinstance(source, RolloutSource) and learner.step_index and between
            ):  # the sampler or the feedback failed, and no step is half done
                with contextlib.suppress(RunFailed):
                    save(source.position)
            raise
        finally:
            display.close()
            if live is not None:
                live.close()
            trackers.close()
        if isinstance(source, RolloutSource):
            oversight.conclude(
                source, spec, self.name, self._console, engine, trained=bool(record) or done > 0
            )
        if parts.stopped is not None:
            assert parts.monitors is not None
            message = f"{self.name}: stopped by its monitors at step {source.position} of {total}: {parts.stopped}\n  fix: {parts.monitors.fix}"
            if not parts.history.entries:
                raise RunFailed(f"{message}\n  events: {self.out / 'events.jsonl'}")
            self._console.print(f"[bold red]{message}[/]", highlight=False)
        return {k: v for k, v in record.items() if isinstance(v, int | float)}

    def _evaluate(
        self, learner: LocalLearner, objective: Objective, held: Sequence[Encoded], engine: Engine
    ) -> Metrics:
        """eval_* metrics over the held-out groups, shared out over the ranks."""
        sums: dict[str, Mean] = {}
        own = list(held[engine.rank :: engine.world]) or list(held[:1])
        batch = objective.prepare(learner.annotate(collate(own), objective.needs))
        for name, mean in learner.evaluate(batch, objective).items():
            sums[name] = mean
        out: Metrics = {}
        for name in sorted(sums):
            pair = engine.sum(torch.stack([sums[name].total.float(), sums[name].weight.float()]))
            weight = 1.0 if name == "loss" else float(pair[1])
            if weight > 0:
                out[f"eval_{name}"] = float(pair[0]) / weight
        return out


def _average(steps: Sequence[Metrics]) -> Metrics:
    """Metrics of the optimizer steps on one batch; one step is the usual case."""
    if len(steps) == 1:
        return steps[0]
    return {
        k: sum(m[k] for m in steps if k in m) / sum(k in m for m in steps)
        for k in dict.fromkeys(k for m in steps for k in m)
    }
