"""train: a method learns from a data set, or from answers that the model samples itself."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.artifacts import read_json
from kilter.data.lineage import uncertified
from kilter.errors import UserError
from kilter.launch.refusals import CROWD, check_cluster
from kilter.launch.spec import ClusterSpec
from kilter.refs import Found
from kilter.release.section import Section
from kilter.runtime import core_count
from kilter.stages.kind import Stage, StageKind, Workspace
from kilter.stages.outcome import Outcome, StagePlan
from kilter.stages.refs import references
from kilter.stages.registry import stage
from kilter.training.config import FREE, TrainSpec
from kilter.types import Encoded, Group, Shape
from kilter.validation import refuse_idle

if TYPE_CHECKING:
    from kilter.data.dataset import Dataset
    from kilter.models.sizes import Sizes

UNVOUCHED = "certify it with `kilter audit-judge`, or allow it with --allow-uncertified (in a recipe true)"


@stage("train")
class Train(StageKind[TrainSpec]):
    """Hands a model, groups and a folder to a Trainer."""

    Spec = TrainSpec
    makes = "model"
    free = FREE

    def reads(self, spec: TrainSpec) -> list[Found]:
        """Online, the prompts are the data."""
        return [f for f in references(spec) if f.field != ("data" if spec.prompts is not None else "")]

    def shape(self, spec: TrainSpec, field: str) -> Shape | None:
        """Prompts online, else what the method learns from."""
        from kilter.objectives import build_objective

        return "prompts" if spec.prompts is not None else build_objective(spec.method).needs.shape

    def sets_aside(self, spec: TrainSpec) -> bool:
        """Rows that choose the best weights."""
        return spec.early_stopping is not None or spec.prompts is not None

    def one_shape(self, spec: TrainSpec) -> bool:
        """Nothing else is read."""
        return True

    def inputs(self, spec: TrainSpec, work: Workspace) -> dict[str, str]:
        """The files of a user's own annotators, and how old its answers' weights may be."""
        from kilter.artifacts import sha256_file
        from kilter.objectives import build_objective
        from kilter.registry import user_files

        files = user_files(sorted(build_objective(spec.method).needs.annotations))
        numbers = spec.cluster.numbers() if spec.cluster is not None else ""
        ahead = {"cluster": numbers} if numbers else {}
        return ahead | {f"file:{path}": sha256_file(path) for path in files}

    def mendable(self, spec: TrainSpec) -> list[Path]:
        """Reward functions: one that failed may be mended, and the run goes on."""
        from kilter.training.identity import feedback_files

        return feedback_files(spec)

    def scores(self, spec: TrainSpec) -> bool:
        """Reward models do."""
        from kilter.objectives import build_objective

        return "reward" in build_objective(spec.method).needs.models

    def adapts(self, spec: TrainSpec, work: Workspace) -> bool:
        """With `adapter`; an adapter on an adapter is written as full weights."""
        return spec.adapter is not None and not spec.adapter.merge and not _on_adapter(spec, work)

    def answers(self, spec: TrainSpec) -> tuple[str, int] | None:
        """Those that the policy learns from as it trains."""
        return None if spec.prompts is None else ("sampler.max_new_tokens", spec.sampler.max_new_tokens)

    def check_names(self, spec: TrainSpec, work: Workspace) -> None:
        """The method and the sources of feedback are known."""
        from kilter.feedback import check_names
        from kilter.objectives.index import check

        check(spec.method)
        for field, source in (("feedback", spec.feedback), ("monitors.gold", spec.monitors.gold)):
            if source is not None:
                check_names(source, work.where(field))

    def check(self, spec: TrainSpec, work: Workspace) -> None:
        """The method builds, and its settings go together."""
        from kilter.training.checks import check_train

        check_train(spec, work.where())
        if spec.start is not None and work.is_stage(spec.start) and not self.scores(spec):
            work.require_policy(spec.start, "from")
        _refuse_whole_training_of_adapter(spec, work, _on_adapter(spec, work))

    def preflight(self, spec: TrainSpec, work: Workspace) -> None:
        """Refuses a tracker that is not installed, and a model that is there but that nothing can train."""
        from kilter.feedback import check_columns, model_references
        from kilter.models.adapters import is_adapter, refuse_unfit_layers
        from kilter.models.load import outline, refuse_unfit
        from kilter.models.resolve import base_of
        from kilter.training.balance import refuse_dense
        from kilter.training.hooks.metrics_log import check_trackers

        check_trackers(spec.trackers)
        if spec.cluster is not None:
            _check_cluster(spec, spec.cluster, work)
        # The model of an earlier stage is not there yet, and was made from one that is.
        for field, name in (("from", spec.start), ("reference", spec.reference), ("teacher", spec.teacher)):
            if (name is None and field != "from") or work.is_stage(name):
                continue
            folder = work.model(name, field)
            # One from the Hub is known once it is here.
            _refuse_whole_training_of_adapter(spec, work, field == "from" and is_adapter(folder))
            refuse_unfit(base_of(folder)[0], str(folder), "model" if name is None else work.where(field))

        if spec.adapter is not None and (begun := work.origin(spec.start)) is not None:
            refuse_unfit_layers(spec.adapter, outline(base_of(begun)[0]), work.where("adapter"))
        if spec.router_aux_loss and (begun := work.origin(spec.start)) is not None:
            refuse_dense(outline(base_of(begun)[0]), spec, work.where("router_aux_loss"))
        _refuse_crowd(spec, work)
        ready = work.ready(spec.prompts or spec.data)
        _refuse_unseen(spec, work, self.shape(spec, "data") or "prompts")
        if ready and not any(work.is_stage(n) for n in model_references(spec.feedback)):
            self._refuse_uncertified(spec, work)
        if not ready and spec.prompts is None and not spec.allow_uncertified:
            _refuse_labels_to_come(spec, work)
        if ready and spec.prompts is None:
            _refuse_too_few_steps(spec, work, self.shape(spec, "data") or "prompts")
        scored = {"feedback": spec.feedback, "monitors.gold": spec.monitors.gold}
        for field, source in scored.items() if ready else ():
            if source is not None:
                data = work.load(spec.prompts or spec.data, self.shape(spec, "data") or "prompts")
                check_columns(source, data.train, work.where(field))

    def notes(self, spec: TrainSpec, work: Workspace) -> list[str]:
        """Processes that share cores, adapters larger than their layers, monitors that are off."""
        from kilter.models.adapters import note_on_rank
        from kilter.models.load import outline
        from kilter.models.resolve import base_of

        found = [crowded(spec), _unwatched(spec)]
        if spec.adapter is not None and (begun := work.origin(spec.start)) is not None:
            found.append(note_on_rank(spec.adapter, outline(base_of(begun)[0])))
        return [note for note in found if note]

    def _refuse_uncertified(self, spec: TrainSpec, work: Workspace) -> list[str]:
        """Judges that nobody vouches for, and whose labels or rewards are learned from all the same.

        Raises:
            UserError: there is one, and nobody allowed it.
        """
        from kilter import feedback

        where, fix = work.where("allow_uncertified"), UNVOUCHED
        judges: set[str] = set()
        if spec.prompts is None:
            data = work.load(spec.data, self.shape(spec, "data") or "prompts")
            judges = {name for g in data.train for name in uncertified(g.prompt)}
        if judges and not spec.allow_uncertified:
            problem = f"is needed: {min(judges)} made labels of this data and has no certificate"
            raise UserError(where, "(absent)", problem, fix)
        if spec.feedback is None:
            return sorted(judges)
        context = feedback.Context(
            lambda name: work.model(name, "feedback"), certificates=work.certificates()
        )
        found = feedback.uncertified(spec.feedback, context, work.where("feedback"))
        if found and not spec.allow_uncertified:
            problem = "; ".join(f"{name}: {why}" for name, why in found.items())
            raise UserError(where, "(absent)", f"is needed: the reward is not certified ({problem})", fix)
        return sorted(judges | found.keys())

    def run(self, spec: TrainSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes model/, metrics.jsonl and what the monitors saw."""
        from kilter.models.descent import descent
        from kilter.models.fingerprint import model_hash
        from kilter.models.noted import hashes
        from kilter.training.parallel import launch
        from kilter.training.trainer import Trainer

        judges = self._refuse_uncertified(spec, work)
        whole = work.load(spec.prompts or spec.data, self.shape(spec, "data") or "prompts")
        data = whole.set_aside(_choosing(spec, whole))
        start = work.model(spec.start, "from")
        reference = work.model(spec.reference, "reference") if spec.reference else None
        work.announce(spec.prompts or spec.data, data)
        if data.select:
            work.console.print(
                f"  {len(data.select)} of {len(whole.train)} training groups choose the best weights"
            )

        if int(os.environ.get("RANK", "0")) == 0:
            _note(folder, whole.train, judges, [p for p in (start, reference) if p is not None])

        trainer = Trainer(
            spec,
            start,
            data.train,
            data.heldout,
            folder,
            reference,
            work.console,
            work.name,
            work.model,
            work.certificates(),
            data.select,
        )
        result = launch.run(trainer) if work.isolated else launch.train(trainer)
        facts = {
            "steps": result.steps,
            "groups": len(data.train),
            "heldout_groups": len(data.heldout),
            "select_groups": len(data.select),
            "metrics": result.metrics,
            "heldout": result.heldout,
            "left_out": dict(data.skipped + result.counts),
            "stopped": result.stopped,
            "best_step": result.best_step,
            "tokens_per_second": result.tokens_per_second,
            "step_seconds": result.step_seconds,
            "peak_memory_gb": result.peak_memory_gb if work.isolated or work.alone else None,
            "cut": dict(result.counts),
            "seconds": result.seconds,
            "descent": descent(start),
            "uncertified": judges,
        }
        return Outcome(facts, {"model": model_hash(result.model), **hashes(folder)})

    def section(self, folder: Path) -> Section | None:
        """Curves, and what the monitors saw."""
        from kilter.release.training_section import training_section

        return training_section(folder)

    def plan(self, spec: TrainSpec, work: Workspace) -> StagePlan:
        """Rows, tokens, steps, memory and time, from the data and the tokenizer; never loads weights."""
        from kilter.objectives import method_name
        from kilter.training.estimate import train_memory

        source = spec.prompts or spec.data
        online = ", online" if spec.prompts is not None else ""
        what = f"{method_name(spec.method)} from {spec.start or work.base}{online}"
        size = _sizes(work.model(None))
        if not work.ready(source):
            return StagePlan(what, memory_gb=round(train_memory(spec, size), 1))
        data = work.load(source, self.shape(spec, "data") or "prompts")
        data = data.set_aside(_choosing(spec, data))
        estimate = _online if spec.prompts is not None else _offline
        return estimate(spec, what, data, size, work)


def _refuse_too_few_steps(spec: TrainSpec, work: Workspace, shape: Shape) -> None:
    """Raises UserError where a warm-up or the first evaluation lies behind the last step.

    Rows that are left out later make a run shorter still.
    """
    if spec.warmup_steps is None and spec.early_stopping is None:
        return
    data = work.load(spec.data, shape)
    rows = len(data.set_aside(_choosing(spec, data)).train[: spec.limit])
    steps = spec.max_steps or max(1, round(math.ceil(rows / spec.batch_size) * spec.epochs))
    if spec.warmup_steps and 1 < steps <= spec.warmup_steps:
        problem = f"is as long as the run of {steps} steps: the peak is never reached"
        raise UserError(work.where("warmup_steps"), spec.warmup_steps, problem, "lower it, or train longer")
    if spec.early_stopping is not None and spec.eval_every is not None and spec.eval_every >= steps > 1:
        problem = f"leaves early_stopping no evaluation before the end of {steps} steps"
        raise UserError(work.where("eval_every"), spec.eval_every, problem, "lower it, or train longer")


def _refuse_crowd(spec: TrainSpec, work: Workspace) -> None:
    """Raises UserError for more processes than GPUs, or than cores bear.

    NCCL refuses two of a group on one GPU, minutes later.
    """
    import torch

    gpus, cores = torch.cuda.device_count(), core_count()
    if not gpus and spec.processes > CROWD * cores:
        problem, fix = f"is too many for this machine's {cores} cores", f"use at most {CROWD} a core"
        raise UserError(work.where("processes"), spec.processes, problem, fix)
    if 0 < gpus < spec.processes:
        problem = f"is more than this machine's {gpus} GPUs, and every process takes one"
        raise UserError(work.where("processes"), spec.processes, problem, f"use at most {gpus}")


def crowded(spec: TrainSpec) -> str:
    """A sentence on processes that share the cores of this machine; "" where each has its own.

    torchrun and accelerate start as many as they are told to as well; each has a copy of the model.
    """
    import torch

    cores, here = core_count(), spec.cluster is not None and spec.cluster.address == "local"
    if torch.cuda.is_available() or (spec.cluster is not None and not here):
        return ""
    roles = spec.cluster.roles() if spec.cluster is not None else {}
    count = sum(r.workers for n, r in roles.items() if n == "learner" or r.place != "here") or spec.processes
    if count <= cores:
        return ""
    return f"{count} processes share {cores} cores, and wait for each other; at most {cores} are usual"


def _unwatched(spec: TrainSpec) -> str:
    """A sentence on settings of monitors that are switched off; "" where nobody set any."""
    # A switch is for trying without them, so that the settings beside it may stay.
    if spec.monitors.enabled:
        return ""
    given = spec.monitors.model_dump(exclude_defaults=True, exclude={"enabled"})
    names = ", ".join(f"monitors.{name}" for name in given)
    return f"monitors.enabled is false, so that nothing reads {names}" if names else ""


def _refuse_unseen(spec: TrainSpec, work: Workspace, shape: Shape) -> None:
    """Raises UserError for what evaluates on held-out rows where there are none.

    Of data that an earlier stage makes, the settings alone are read.
    """
    reference, watch = spec.prompts or spec.data, spec.monitors
    settings = work.data(reference)
    mend = f"{work.data_field(reference, 'heldout')}, such as 0.1"
    if not work.listed(reference):
        mend = f"data to a data set {{path: {reference}, heldout: 0.1}}"
    none = not settings.heldout and not any(part.heldout for part in settings.parts)
    data = None
    if work.ready(reference):
        data = work.load(reference, shape)
        none = not data.heldout
    early = None if spec.early_stopping is None else spec.early_stopping.metric
    asked = (("early_stopping", early), ("eval_every", spec.eval_every), ("eval_limit", spec.eval_limit))
    for name, value in asked:
        if none and value is not None:
            fix = f"set {mend}, or leave {name} out"
            raise UserError(work.where(name), value, "needs held-out rows, and the data has none", fix)
    if data is None:
        return
    chosen = bool(data.set_aside(_choosing(spec, data)).select)
    if early is not None and not chosen:
        problem = "needs rows set aside to choose by, which is a quarter of the prompts at most"
        raise UserError(work.where("early_stopping"), early, problem, "give more prompts")
    if spec.prompts is None or not watch.enabled or chosen:
        return
    if watch.gold is not None:
        problem = "has no prompts to judge: at most a quarter of the training prompts is set aside for it"
        fix = "give more prompts, or leave it out"
        raise UserError(work.where("monitors.gold"), watch.gold, problem, fix)
    why, fix = "nothing judges the answers", "name a source in monitors.gold, or leave it out"
    idle = [(name, why, fix) for name in ("keep_best", "gold_every", "gold_prompts")]
    refuse_idle(watch, f"{work.where('monitors')}.", idle)


def _refuse_labels_to_come(spec: TrainSpec, work: Workspace) -> None:
    """Judges of label stages before this one that nothing can certify: else it is said after their labels.

    Raises:
        UserError: naming the judge. Where an audit comes before its labels, nobody knows yet.
    """
    from kilter import feedback

    for name in work.made_by(spec.data):
        own = work.at(name)
        source = getattr(own.here.spec, "feedback", None)
        models = feedback.model_references(source)
        if source is None or own.earlier("certificate") or any(map(own.is_stage, models)):
            continue
        context = feedback.Context(functools.partial(own.model, field="feedback"))
        for judge in feedback.uncertified(source, context, own.where("feedback")):
            raise UserError(
                work.where("allow_uncertified"),
                "(absent)",
                f"is needed: {judge} will make labels in stage {name} and has no certificate",
                UNVOUCHED,
            )


def _check_cluster(spec: TrainSpec, cluster: ClusterSpec, work: Workspace) -> None:
    """Raises UserError for a cluster that cannot run this, files that lie elsewhere there included."""
    import torch

    from kilter.models.resolve import base_of
    from kilter.objectives import index
    from kilter.training.placing import facts

    paths = {"out" if work.alone else "--runs": str(work.folder)}
    paths |= {"model": work.base} if Path(work.base).exists() else {}
    for name in work.data_sets:
        found = (part.path for part in work.sources(name))
        paths |= {work.data_field(name, "path"): path for path in found if Path(path).exists()}
    # Another machine's GPUs are counted when it answers.
    gpus = torch.cuda.device_count() if cluster.address == "local" else None
    known = facts(spec, index.brief(spec.method), work.where(), gpus)
    known = replace(known, paths=paths, cores=core_count())
    check_cluster(cluster, known)
    # To look at a model may bring it from the Hub.
    if (cluster.rollout.gpus or 1) > 1 and (begun := work.origin(spec.start)) is not None:
        config = read_json(base_of(begun)[0] / "config.json")
        heads = config.get("num_attention_heads") or 0
        keys = config.get("num_key_value_heads") or heads
        check_cluster(cluster, replace(known, heads=(heads, keys)))


def on_cluster(stages: Mapping[str, Stage], cluster: ClusterSpec) -> dict[str, Stage]:
    """Stages whose train stages have the keys of one file, each those of the roles that its method has.

    A stage with `cluster` of its own keeps it.

    Raises:
        UserError: a role of the file moves in no stage, or no stage takes any of it.
    """
    from kilter.objectives import index
    from kilter.training.placing import fitting

    found, used = dict(stages), list[ClusterSpec]()
    for name, one in stages.items():
        if isinstance(one.spec, TrainSpec) and one.spec.cluster is None:
            fit = fitting(cluster, one.spec, index.brief(one.spec.method))
            found[name] = replace(one, spec=one.spec.model_copy(update={"cluster": fit}))
            used += [] if fit is None else [fit]
    for role, wanted in cluster.roles().items():
        if wanted != ClusterSpec().roles()[role] and all(fit.roles()[role] != wanted for fit in used):
            problem = "names a role that no train stage without `cluster` of its own has"
            raise UserError("--cluster", role, problem, "leave it out of the file")
    if not used:
        own = [n for n, one in stages.items() if getattr(one.spec, "cluster", None) is not None]
        problem = "moves no role out of a train stage"
        fix = "name a role, such as rollout: {place: apart}, or leave the file out"
        if own:
            problem = "has no train stage to change: each keeps a `cluster` of its own"
            fix = f"give its keys one by one, such as --set stages.{own[0]}.train.cluster.lookahead=1"
        raise UserError("--cluster", "(given)", problem, fix)
    return found


def _note(folder: Path, groups: Sequence[Group], judges: Sequence[str], parents: Sequence[Path]) -> None:
    """Writes the prompts that a model learned from, or that chose its weights, and whose word it took.

    An evaluation has to know every one of them, those of its ancestors included.
    """
    from kilter.data.dataset import learned_keys
    from kilter.models.noted import JUDGES, LINEAGE, note

    own = {key for g in groups for key in learned_keys(g.prompt)}
    note(folder, {LINEAGE: own, JUDGES: judges}, parents)


def _choosing(spec: TrainSpec, data: Dataset) -> int:
    """Training prompts that the stage takes to choose its best weights by."""
    from kilter.data.dataset import prompt_key
    from kilter.data.worlds.registry import world_of

    watch = spec.monitors
    if spec.prompts is None:
        held = len({prompt_key(g.prompt) for g in data.heldout[: spec.eval_limit]})
        return 0 if spec.early_stopping is None else held
    # A world that nobody named judges where prompts are held out, as a sign that evidence is wanted.
    own = bool(data.heldout) and all(world_of(g.prompt) is not None for g in data.heldout)
    return watch.gold_prompts if watch.enabled and (watch.gold is not None or own) else 0


def _on_adapter(spec: TrainSpec, work: Workspace) -> bool:
    """Whether training starts from an adapter: that of a stage, or a folder; nothing is fetched to see it."""
    from kilter.models.adapters import is_adapter

    if spec.start is not None and work.is_stage(spec.start):
        stage = work.stages[spec.start]
        return stage.maker.adapts(stage.spec, work.at(spec.start))
    folder = Path(spec.start or work.base).expanduser()
    return is_adapter(folder) or is_adapter(folder / "model")


def _refuse_whole_training_of_adapter(spec: TrainSpec, work: Workspace, adapted: bool) -> None:
    """Raises UserError where training without `adapter` starts from one: which weights learn is not said."""
    if adapted and spec.adapter is None:
        raise UserError(
            work.where("adapter"),
            "(absent)",
            f"is needed: training starts from an adapter, {spec.start or work.base}",
            "give adapter (--adapter lora): the old adapter is folded in, a fresh one learns. "
            "To train all weights, fold it with `kilter export --merge` first",
        )


@functools.cache
def _sizes(folder: Path) -> Sizes:
    from kilter.training.estimate import sizes

    return sizes(folder)


@functools.cache
def _speed(dtype: str) -> float:
    """Floating-point operations per second that training reaches here."""
    from kilter.training.estimate import EFFICIENCY, flops_per_second

    return flops_per_second(dtype) * EFFICIENCY


def _offline(spec: TrainSpec, what: str, data: Dataset, size: Sizes, work: Workspace) -> StagePlan:
    """Forward and backward cost 6 operations per weight and token, a reference pass 2."""
    from kilter.objectives import build_objective
    from kilter.training.estimate import train_memory
    from kilter.training.sources.fixed import FixedSource

    encoded = _rows(spec, data, work)
    source = FixedSource(encoded, spec.batch_size, spec.epochs, spec.max_steps)
    tokens = sum(e.tokens() for e in encoded)
    trained = int(tokens * source.total_steps / source.steps_per_epoch)
    reference = "ref_logps" in build_objective(spec.method).needs.annotations
    passes = 6 * trained + (2 * tokens if reference else 0)
    seconds = passes * size.parameters / _speed(spec.dtype)
    memory = round(train_memory(spec, size), 1)
    return StagePlan(what, len(encoded), trained, source.total_steps, memory, round(seconds))


def _rows(spec: TrainSpec, data: Dataset, work: Workspace) -> Sequence[Encoded]:
    """The training rows as the stage will see them. Raises UserError where it would refuse them."""
    from kilter.objectives import build_objective
    from kilter.training.fit import Room, refuse_unreadable_rows
    from kilter.training.rows import rows_of
    from kilter.training.scorers import make_encoder
    from kilter.training.sources.replay import replayable

    begun, needs, where = (
        work.origin(spec.start) or work.model(None),
        build_objective(spec.method).needs,
        work.where(),
    )
    encoder, groups = make_encoder(spec, begun), data.train[: spec.limit]
    if needs.shape == "rollouts":
        return encoder.encode_all(replayable(groups, needs), f"{where}data")
    held, select = data.heldout[: spec.eval_limit], data.select[: spec.eval_limit]
    rows = rows_of(spec, needs, encoder, groups, held, select, where)
    for part in (rows.train, rows.heldout, rows.select):
        refuse_unreadable_rows(spec, Room.outlined(begun), encoder, part, where)
    return rows.train


def _prompts(spec: TrainSpec, data: Dataset, work: Workspace) -> Sequence[Sequence[int]]:
    """The training prompts as tokens. Raises UserError where the stage would refuse one, or its sampler."""
    from kilter.sampling.build import refuse_unready
    from kilter.training.fit import Room, refuse_unreadable_prompts
    from kilter.training.scorers import make_encoder

    begun, where = work.origin(spec.start) or work.model(None), work.where()
    encoder, room = make_encoder(spec, begun), Room.outlined(begun)
    refuse_unreadable_prompts(spec, room, encoder, [g.prompt for g in data.select], where)
    asked = [g.prompt for g in data.train[: spec.limit]]
    prompts = refuse_unreadable_prompts(spec, room, encoder, asked, where)
    # On a cluster other machines sample.
    if spec.cluster is None:
        refuse_unready(spec.sampler, f"{where}sampler")
    return prompts


def _refuse_idle_policy(spec: TrainSpec, steps: int, work: Workspace) -> None:
    """Raises UserError where the critic learns alone up to the last of so many optimizer steps."""
    if spec.critic.warmup_steps >= steps:
        problem = f"is as long as the run of {steps} optimizer steps: the policy never learns"
        fix = "lower it, or train longer"
        raise UserError(work.where("critic.warmup_steps"), spec.critic.warmup_steps, problem, fix)


def _online(spec: TrainSpec, what: str, data: Dataset, size: Sizes, work: Workspace) -> StagePlan:
    """An upper estimate: every completion is as long as it may be. Decoding takes three times as long."""
    from kilter.feedback import model_references
    from kilter.objectives import build_objective
    from kilter.training.estimate import train_memory

    needs, prompts = build_objective(spec.method).needs, _prompts(spec, data, work)
    steps = spec.max_steps or max(1, math.ceil(spec.epochs * len(prompts) / spec.batch_size))
    prompt = sum(map(len, prompts)) / max(1, len(prompts))
    answers = spec.sampler.samples * spec.sampler.max_new_tokens
    tokens = int(steps * spec.batch_size * (prompt + answers))

    # Forward and backward of policy and critic, forward passes for annotations, decoding.
    epochs = spec.inner_epochs or needs.inner_epochs
    _refuse_idle_policy(spec, steps * spec.minibatches * epochs, work)
    models = 2 if "critic" in needs.models else 1
    extra = (
        ("ref_logps" in needs.annotations)
        + ("old_values" in needs.annotations)
        + ("old_logps" in needs.annotations and spec.dtype == "bfloat16")
    )
    passes = 6 * epochs * models * tokens + 2 * extra * tokens + 2 * 3 * steps * spec.batch_size * answers

    # Other models in memory: a critic with its optimizer, a reference that is no adapter, reward models.
    copies = (
        (models - 1) * 4
        + ("ref_logps" in needs.annotations and spec.adapter is None)
        + len(model_references(spec.feedback))
    )
    memory = train_memory(spec, size) + 4 * size.parameters * copies / 1e9
    seconds = passes * size.parameters / _speed(spec.dtype)
    return StagePlan(what, len(prompts), tokens, steps, round(memory, 1), round(seconds))
