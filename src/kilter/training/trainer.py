"""THE loop. Offline or online, row, group or batch objective, one process or many: all the same lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from kilter.data.collate import collate
from kilter.data.encode import Encoded, Encoder
from kilter.errors import Interrupted, RunFailed, UserError
from kilter.models import adapters
from kilter.models.forward import Scorer, supports_shared_prefix
from kilter.models.load import cache_root, load_causal, load_reward, load_tokenizer, model_hash, quiet_transformers, stop_ids
from kilter.models.reference import ReferenceCache
from kilter.objectives import build_objective
from kilter.training.checkpoint import Checkpoints, rng_state, set_rng_state
from kilter.training.config import TrainSpec
from kilter.training.distributed import Engine, make_engine
from kilter.training.learner import LocalLearner, split
from kilter.training.log import Display, MetricsFile, Trackers, check_trackers
from kilter.training.sources import Offline
from kilter.types import Group, Mean, Metrics, Objective

log = logging.getLogger("kilter")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where the model is and how it went: last step's metrics, held-out metrics, counts of data left out."""

    model: Path
    steps: int
    metrics: Metrics
    heldout: Metrics
    counts: Counter[str]
    seconds: float


@dataclass
class Trainer:
    """One train stage. `start`: model folder to begin from; `out`: stage folder, resumed when it holds a checkpoint."""

    spec: TrainSpec
    start: Path
    train: Sequence[Group]
    heldout: Sequence[Group]
    out: Path
    reference: Path | None = None
    console: Console | None = None
    name: str = "train"

    def run(self) -> TrainResult:
        """Trains to the end, or raises Interrupted / RunFailed with everything up to the last checkpoint safe."""
        begin = time.monotonic()
        spec, objective = self.spec, build_objective(self.spec.method)
        check_trackers(spec.trackers)
        engine = make_engine(spec.engine, spec.fsdp)
        console = self.console or Console(stderr=True)
        torch.manual_seed(spec.seed)
        self.out.mkdir(parents=True, exist_ok=True)

        encoder = self.encoder()
        groups = self.train[: spec.limit] if spec.limit else self.train
        encoded = encoder.encode_all(groups, "data", f"{len(groups)} groups")
        held = [e for e in map(encoder.encode, self.heldout) if e is not None]
        if encoder.counts and engine.is_main:
            console.print("  data: " + ", ".join(f"{n} {what}" for what, n in encoder.counts.items()), highlight=False)

        scorer = self._scorer(objective, encoder)
        scorer.to(engine.device)
        cache = self._reference(scorer, objective, [*encoded, *held], engine, console)
        source = Offline(encoded, spec.batch_size, spec.epochs, spec.max_steps, spec.shuffle, spec.seed, engine.rank, engine.world)
        learner = LocalLearner(scorer, objective.needs, spec, source.total_steps, engine, cache)

        checkpoints = Checkpoints(self.out / "checkpoints", spec.save_every)
        self._identity = self.identity([*encoded, *held])
        tokens, done = self._resume(checkpoints, learner, source)
        if done and engine.is_main:
            console.print(f"  resuming after step {done}", highlight=False)
        metrics = self._loop(learner, objective, source, held, checkpoints, engine, console, tokens, done)

        final = self._evaluate(learner, objective, held, engine) if held else {}
        self._save_model(learner, encoder, engine)
        engine.barrier()
        return TrainResult(self.out / "model", source.total_steps, metrics, final, encoder.counts, time.monotonic() - begin)

    def encoder(self) -> Encoder:
        """Tokeniser with the stage's length and template."""
        tokenizer = load_tokenizer(self.start)
        return Encoder(tokenizer, stop_ids(self.start, tokenizer), self.spec.max_length, self.spec.template)

    def _scorer(self, objective: Objective, encoder: Encoder) -> Scorer:
        spec, classifier = self.spec, "reward" in objective.needs.models
        tokenizer = encoder.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id not in encoder.stop_ids else None
        model = load_reward(self.start, pad, spec.seed, fresh=True) if classifier else load_causal(self.start)
        _switch_off_dropout(model)
        if spec.adapter is not None:
            model = adapters.attach(model, spec.adapter, classifier)
        if spec.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if spec.adapter is not None:
                model.enable_input_require_grads()
        scorer = Scorer(model)
        supports_shared_prefix(scorer)
        return scorer

    def _reference(self, scorer: Scorer, objective: Objective, groups: Sequence[Encoded], engine: Engine, console: Console) -> ReferenceCache | None:
        """Fills the cache with what is missing, before the first update, when the model still is its own reference."""
        if "ref_logps" not in objective.needs.annotations:
            return None
        folder = self.reference or self.start
        cache = ReferenceCache(cache_root() / "reference.sqlite", model_hash(folder), self.spec.dtype)
        own = groups[engine.rank :: engine.world]
        missing = [g for g in own if cache.lookup(collate([g])) is None]
        if missing:
            model = scorer
            if self.reference is not None and self.reference != self.start:
                model = Scorer(load_causal(folder), scorer.shared).to(engine.device)
            off = model.model.disable_adapter() if hasattr(model.model, "peft_config") else contextlib.nullcontext()
            display = Display(console, f"{self.name}: reference", len(missing), quiet=not engine.is_main)
            model.eval()
            with off, torch.no_grad():
                done = 0
                for first in range(0, len(missing), 64):
                    chunk = collate(missing[first : first + 64])
                    for part in split(chunk, self.spec.tokens_per_microbatch, model.shared):
                        out = model(part, amp=self.spec.dtype == "bfloat16")
                        cache.put(cache.keys(part), out.logps_BT, part.length_B)
                        done += part.groups()
                        display.update(done, "log-probs")
            display.close()
        elif engine.is_main:
            console.print(f"  reference log-probs of all {len(groups)} groups found in the cache", highlight=False)
        engine.barrier()
        return cache

    def identity(self, groups: Sequence[Encoded]) -> str:
        """Hash of what makes a run this run: configuration, start weights, tokens. A checkpoint of another is refused."""
        digest = hashlib.sha256(self.spec.model_dump_json(exclude={"save_every", "trackers", "engine", "fsdp", "eval_every"}).encode())
        digest.update(model_hash(self.start).encode())
        for e in groups:
            digest.update(repr((e.prompt_ids, e.completion_ids)).encode())
        return digest.hexdigest()

    def _resume(self, checkpoints: Checkpoints, learner: LocalLearner, source: Offline) -> tuple[int, int]:
        """(tokens seen, steps done) of the newest checkpoint; (0, 0) without one."""
        latest = checkpoints.latest()
        if latest is None:
            return 0, 0
        meta = json.loads((latest / "meta.json").read_text())
        if meta.get("identity") != self._identity:
            raise UserError(
                "out", str(self.out), f"holds a checkpoint of another run (method {meta.get('method')}, step {meta.get('step')})",
                "choose another folder, use the same settings to resume it, or remove its checkpoints/",
            )  # fmt: skip
        state = torch.load(latest / "state.pt", map_location="cpu", weights_only=False)
        learner.restore(state["learner"])
        set_rng_state(state["rng"])
        source.position = learner.step_index
        return int(state["tokens"]), learner.step_index

    def _loop(
        self, learner: LocalLearner, objective: Objective, source: Offline, held: Sequence[Encoded],
        checkpoints: Checkpoints, engine: Engine, console: Console, tokens: int, done: int,
    ) -> Metrics:  # fmt: skip
        spec, total = self.spec, source.total_steps
        record: dict[str, Any] = {}
        metrics_file = MetricsFile(self.out / "metrics.jsonl", done) if engine.is_main else None
        trackers = Trackers(spec.trackers if engine.is_main else [], self.out / "trackers", spec.model_dump(mode="json"))
        display = Display(console, f"{self.name}: {_method_name(spec)}", total, done, quiet=not engine.is_main)

        def save(step: int) -> None:
            def write(path: Path) -> None:
                state = {"learner": learner.state(), "rng": rng_state(), "tokens": tokens}
                if engine.is_main:
                    torch.save(state, path)

            checkpoints.save(step, write, {"method": _method_name(spec), "identity": self._identity}, engine.is_main)

        try:
            with _Signals() as signals:
                for groups in source:
                    clock = time.monotonic()
                    batch = learner.annotate(collate(groups), objective.needs)
                    batch = objective.prepare(batch)
                    metrics = learner.step(batch, objective)
                    source.after_update(learner)
                    step = learner.step_index
                    seen = int(engine.sum(torch.tensor(float(sum(g.tokens() for g in groups)))))
                    tokens += seen
                    record = {"step": step, "epoch": round(source.epoch_of(step - 1), 4)} | metrics
                    record |= {"num_tokens": tokens, "tokens_per_second": round(seen / max(time.monotonic() - clock, 1e-9), 1)}
                    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                        last = checkpoints.latest()
                        raise RunFailed(
                            f"{self.name}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']} at step {step}; the step was not taken\n"
                            f"  last good checkpoint: {last or 'none yet'}\n  fix: lower learning_rate, or use dtype: float32"
                        )
                    if spec.eval_every and step % spec.eval_every == 0 and held and step < total:
                        record |= self._evaluate(learner, objective, held, engine)
                    try:
                        if metrics_file is not None:
                            metrics_file.write(record)
                        trackers.write(record)
                    except OSError as error:
                        raise RunFailed(
                            f"{self.name}: metrics of step {step} could not be written ({error})\n  last good checkpoint: {checkpoints.latest() or 'none yet'}\n"
                            "  fix: free disk space, then run the same command again to resume"
                        ) from error
                    display.update(step, _note(record))
                    stop = bool(engine.max(int(signals.received)))
                    if stop or (step < total and bool(engine.max(int(checkpoints.due(step))))):
                        save(step)
                    if stop:
                        raise Interrupted(
                            f"stopped after step {step} of {total}; everything is saved in {self.out}\n  to resume: run the same command again"
                        )
        finally:
            display.close()
            trackers.close()
            if metrics_file is not None:
                metrics_file.close()
        return {k: v for k, v in record.items() if isinstance(v, int | float)}

    def _evaluate(self, learner: LocalLearner, objective: Objective, held: Sequence[Encoded], engine: Engine) -> Metrics:
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
            out[f"eval_{name}"] = float(pair[0]) / max(weight, 1e-12)
        return out

    def _save_model(self, learner: LocalLearner, encoder: Encoder, engine: Engine) -> None:
        """model/ appears by rename: full weights in Hugging Face layout, or the adapter alone."""
        state = engine.state(learner.module) if engine.world > 1 else None
        if not engine.is_main:
            return
        final, partial = self.out / "model", self.out / ".model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model = learner.scorer.model
        try:
            if hasattr(model, "peft_config") and adapters.is_adapter(self.start):
                model = model.merge_and_unload()  # the base was itself adapted: only full weights describe the result
                state = None
            extra = {} if state is None else {"state_dict": {k.removeprefix("model."): v for k, v in state.items()}}
            if hasattr(model, "peft_config"):
                for config in model.peft_config.values():
                    config.base_model_name_or_path = str(self.start.resolve())
            with quiet_transformers():
                model.save_pretrained(str(partial), **extra)
                encoder.tokenizer.save_pretrained(str(partial))
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunFailed(
                f"the model could not be written to {final} ({error})\n  last good checkpoint: {self.out / 'checkpoints'}\n  fix: free disk space, then run again to resume"
            ) from error


def _switch_off_dropout(model: Any) -> None:
    """Log-probs of policy and reference must be those of one function, so no model dropout (adapters have their own)."""
    names = ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in names:
            for holder in (module, getattr(module, "config", None)):
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)


class _Signals:
    """Ctrl-C and SIGTERM ask the loop to stop after the current step; a second Ctrl-C stops at once."""

    received = False

    def __enter__(self) -> _Signals:
        self._old: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        log.warning("stopping after this step (again to stop at once)")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _method_name(spec: TrainSpec) -> str:
    return spec.method if isinstance(spec.method, str) else str(spec.method.get("name"))


def _note(record: dict[str, Any]) -> str:
    parts = [f"loss {record['loss']:.3f}"]
    if "rewards/accuracies" in record:
        parts.append(f"acc {record['rewards/accuracies']:.2f}")
    parts.append(f"{record['tokens_per_second']:.0f} tok/s")
    return "  ".join(parts)


def require_writable(out: Path, field: str = "out") -> None:
    """Raises UserError when files cannot be created under `out`; called before any expensive work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(field, str(out), f"cannot be written ({error.strerror or error})", "choose a folder you may write to") from error
