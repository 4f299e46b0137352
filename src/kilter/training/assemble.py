"""What a run is made of: one builder per kind of source, chosen by lookup, and the order of the hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from kilter.data.arrange import with_labels
from kilter.data.encode import Encoder
from kilter.data.shelf import Joined
from kilter.errors import UserError
from kilter.models.critic import ActorCritic
from kilter.models.forward import Scorer
from kilter.models.reference import LiveReference
from kilter.objectives import method_name
from kilter.seams import Hook, LogProbs, Origin
from kilter.training import scorers
from kilter.training.fit import Room, refuse_unreadable_prompts, refuse_unreadable_rows
from kilter.training.hooks.account import Account
from kilter.training.hooks.checkpoints import Pins, SaveCheckpoints
from kilter.training.hooks.critic import CriticScale
from kilter.training.hooks.display import ShowLive, ShowProgress
from kilter.training.hooks.early_stopping import StopEarly
from kilter.training.hooks.finite import FiniteGuard
from kilter.training.hooks.gold import BEST, BestWeights, GoldEvidence
from kilter.training.hooks.heldout import HeldOut
from kilter.training.hooks.interrupts import Interrupts, StopRequest
from kilter.training.hooks.kl_control import KLController, KLDistance
from kilter.training.hooks.metrics_log import MetricsLog
from kilter.training.hooks.reached import Reached
from kilter.training.hooks.reference import RefreshReference
from kilter.training.hooks.rollouts import CutPrompts, RolloutFile
from kilter.training.hooks.watch import Announce, Verdict, Watch
from kilter.training.identity import identity, place_of_critic, refuse_another_run, reward_files
from kilter.training.job import Job
from kilter.training.learner import LocalLearner
from kilter.training.loop import Hooks
from kilter.training.monitors import EnergyProbe, EventLog, GoldHistory, Monitors
from kilter.training.rollout_parts import make_gold, make_source
from kilter.training.rows import rows_of
from kilter.training.run import Run
from kilter.training.sources.fixed import FixedSource
from kilter.training.sources.replay import replayable, sampled_at
from kilter.training.sources.rollouts import RolloutSource
from kilter.training.whole import WholeCopy
from kilter.types import Encoded, Group

Builder = Callable[[Job, "Scorer | ActorCritic", Encoder], Run]


def assemble(job: Job, scorer: Scorer | ActorCritic, encoder: Encoder) -> Run:
    """The run that a train stage asks for."""
    return BUILDERS[kind_of_source(job)](job, scorer, encoder)


def kind_of_source(job: Job) -> str:
    """Who answers the prompts: the data, an earlier run, or the policy as it trains."""
    if job.spec.prompts is not None:
        return "rollouts"
    return "replay" if job.objective.needs.shape == "rollouts" else "fixed"


def _fixed(job: Job, scorer: Scorer | ActorCritic, encoder: Encoder) -> Run:
    """Training on the data's own answers."""
    needs = job.objective.needs
    groups, heldout = job.groups, job.heldout[: job.spec.eval_limit]
    select = job.select[: job.spec.eval_limit] if job.spec.early_stopping is not None else ()

    rows = rows_of(job.spec, needs, encoder, groups, heldout, select)
    if rows.left_out:
        (label,) = needs.labels
        job.say(
            f"data: {rows.left_out} of {len(groups)} answers left out: "
            f"this method learns from those labelled {bool(label)} alone"
        )
    _say_unread_odds(job, with_labels(groups, needs.labels) if rows.left_out else groups)
    return _on_data(job, scorer, encoder, rows.train, rows.heldout, rows.select)


def _replay(job: Job, scorer: Scorer | ActorCritic, encoder: Encoder) -> Run:
    """Training on the scored rollouts of an earlier run."""
    groups = replayable(job.groups, job.objective.needs)
    job.say(f"replay: training on the {len(groups)} scored groups of the data; nothing is sampled")
    encoded = encoder.encode_all(groups, "data", f"{len(groups)} groups")
    # Log-probs have to be taken at the temperature at which the answers were drawn.
    temperature = sampled_at(groups, job.spec.sampler.temperature)
    return _on_data(job, scorer, encoder, encoded, [], [], temperature, "replay")


def _on_data(
    job: Job,
    scorer: Scorer | ActorCritic,
    encoder: Encoder,
    encoded: Sequence[Encoded],
    held: Sequence[Encoded],
    select: Sequence[Encoded],
    temperature: float = 1.0,
    origin: Origin = "own",
) -> Run:
    """What fixed data and recorded rollouts share: one source, and a reference computed beforehand.

    `held` is what the run reports on; by `select` it chooses the best weights.
    """
    spec, needs, engine, evaluated = job.spec, job.objective.needs, job.engine, Joined(held, select)
    if spec.batch_size < engine.world:
        job.say(f"batch_size {spec.batch_size}: so many of the {engine.world} processes have work in a step")
    # Nothing is cut or dropped in silence.
    if encoder.counts:
        job.say("data: " + ", ".join(f"{n} {what}" for what, n in encoder.counts.items()))
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

    # What cannot be read, and another run's checkpoint, are refused before the reference is computed.
    refuse_unreadable_rows(spec, Room.of(scorer.policy, job.start), encoder, chain(encoded, evaluated))
    mine = identity(job, chain(encoded, evaluated))
    refuse_another_run(job, mine)
    cache = None
    if "ref_logps" in needs.annotations:
        cache = scorers.fill_reference_cache(
            job, scorer.policy, encoder, Joined(source.visited(), evaluated), temperature
        )
    # The schedule decays over optimizer steps, of which a batch may have several.
    steps, critic = _steps(job, source), scorers.critic_apart(job, encoder)
    learner = LocalLearner(scorer, needs, spec, steps, engine, cache, temperature, origin, critic)

    run = _run(job, learner, source, held, mine)
    run.early = _early(job, run, select)
    run.hooks = _hooks_on_data(job, run, source)
    return run


def _hooks_on_data(job: Job, run: Run, source: FixedSource) -> Hooks:
    """The order in which a step on fixed data is looked at."""
    saver, total = _saver(job, run), run.source.total_steps
    lost: list[Hook] = []
    # Nothing watches such a run, but its workers may be lost as well.
    if job.cluster is not None:
        log = EventLog(job.out / "events.jsonl" if job.engine.is_main else None)
        announce = Announce(log, job.console, job.engine, watched=False)
        announce.apart = True
        job.cluster.tell = lambda what, detail: announce.tell_own(max(1, source.position), what, detail)
        lost.append(announce)
    return Hooks(
        (
            run.account,
            *lost,
            FiniteGuard(job.name, saver.checkpoints),
            # What decides when to stop is looked at on the way, and what is reported only at the end.
            run.heldout if run.early is None else run.early.heldout,
            Reached(job.out if job.engine.is_main else None, source),
            _metrics_log(job, saver),
            _screen(job, total),
            *([] if run.early is None else [run.early]),
            Interrupts(run.signals, saver, job.out),
            saver,
        )
    )


def _rollouts(job: Job, scorer: Scorer | ActorCritic, encoder: Encoder) -> Run:
    """Assembles a run that trains on answers of the policy."""
    spec, needs, engine = job.spec, job.objective.needs, job.engine
    # A process without a prompt would have nothing to forward, and collectives would wait for it.
    if engine.world > spec.batch_size:
        raise UserError(
            "batch_size",
            spec.batch_size,
            f"is less than the {engine.world} processes",
            "give every process a prompt per step",
        )
    room, prompts = Room.of(scorer.policy, job.start), [g.prompt for g in job.groups]
    refuse_unreadable_prompts(spec, room, encoder, [g.prompt for g in job.select])
    ids = refuse_unreadable_prompts(spec, room, encoder, prompts)
    mine = identity(job, (), list(zip(ids, prompts, strict=True)))
    refuse_another_run(job, mine)

    # The reference moves with nothing but `refresh_reference_every`, and answers where the method wants an
    # opponent.
    policy = scorer.policy
    wanted = "ref_logps" in needs.annotations or needs.opponent is not None
    temperature = spec.sampler.temperature
    elsewhere = scorers.reference_apart(job, policy, temperature) if wanted else None
    frozen = scorers.frozen_reference(job, policy, encoder) if wanted and elsewhere is None else None
    # Sharded weights answer nobody: a copy does, unless other workers do.
    whole = WholeCopy(policy) if engine.sharded and not job.divided else None
    answering = policy if whole is None else whole.scorer
    source = make_source(job, answering, encoder, frozen, whole)
    origin: Origin = "own" if needs.opponent is None else "mixed"
    if not source.answers.samplers[0].facts.exact:
        anchored = source.lookahead and job.cluster and job.cluster.spec.correction == "anchored"
        origin = "replay" if anchored else "engine"
    steps, critic = _steps(job, source), scorers.critic_apart(job, encoder)
    learner = LocalLearner(scorer, needs, spec, steps, engine, None, temperature, origin, critic)
    learner.ahead = source.lookahead > 0
    if job.cluster is not None:
        job.cluster.moments.optimizer = learner.optimizer
    live: LogProbs | None = elsewhere
    if wanted and live is None:
        live = LiveReference(answering, frozen, learner.amp, temperature, learner.reference_rows)
    learner.reference = live

    run = _run(job, learner, source, (), mine)
    run.hooks = Hooks(_rollout_hooks(job, run, source, live))
    return run


def _rollout_hooks(job: Job, run: Run, source: RolloutSource, reference: LogProbs | None) -> list[Hook]:
    """The order in which a step on fresh rollouts is looked at."""
    spec, engine, learner = job.spec, job.engine, run.learner
    # One process writes what all of them see.
    log = EventLog(job.out / "events.jsonl" if engine.is_main else None)
    history = GoldHistory(job.out / "gold.jsonl" if engine.is_main else None)
    monitors = Monitors(spec.monitors, log, history, source.total_steps, spec.monitors.allow_truncation)
    best = BestWeights(job.out / BEST, learner) if spec.monitors.keep_best is not False else None
    run.gold = GoldEvidence(make_gold(job, source), monitors, learner, source.total_steps, best)
    probe = EnergyProbe(learner.scorer.policy, lambda: learner.standing_in)
    watch = Watch(monitors, probe if spec.monitors.enabled else None, engine)
    announce = Announce(log, job.console, engine)
    source.tell = announce.tell
    if job.cluster is not None:
        announce.apart = True
        job.cluster.tell = lambda what, detail: announce.tell_own(source.position + 1, what, detail)
        # The engines of all processes are alike: one of these says it.
        job.cluster.note = lambda what, detail: announce.tell(source.position + 1, what, detail, "info")
    saver = _saver(job, run)

    # A method without a coefficient is watched all the same.
    start = job.objective.needs.kl_coefficient
    controller = None if start is None else KLController(spec.kl_control, start)
    # What has to be in place before anything of the step is computed.
    before: list[Hook] = [RolloutFile(source.path)]
    if "critic" in job.objective.needs.models and scorers.critic_is_the_reward(spec):
        critic = learner.critic or learner.scorer
        assert not isinstance(critic, Scorer), "the method has a critic"
        before.append(CriticScale(critic, source.feedback))
    moves: list[Hook] = []
    if spec.refresh_reference_every and reference is not None:
        moves.append(RefreshReference(reference, spec.refresh_reference_every))
    room = f"max_length {spec.max_length} less {spec.sampler.max_new_tokens} for the answer"
    return [
        *before,
        # What the step was: a record that the later hooks complete and read.
        run.account,
        FiniteGuard(job.name, saver.checkpoints, log),
        KLDistance(engine, source.answers.opposed, controller),
        watch,
        *moves,
        run.gold,
        announce,
        # The record is complete: it is written and shown.
        CutPrompts(source.encoder, room, job.console, quiet=not engine.is_main),
        _metrics_log(job, saver),
        _screen(job, source.total_steps, log),
        # What may end the run, and what a resumed one begins with.
        *([Pins(saver, watch.named)] if spec.monitors.pin else []),
        Verdict(monitors, engine),
        Interrupts(run.signals, saver, job.out),
        saver,
    ]


BUILDERS: dict[str, Builder] = {"fixed": _fixed, "replay": _replay, "rollouts": _rollouts}
"""Kind of source to what builds a run on it."""


def _run(
    job: Job, learner: LocalLearner, source: FixedSource | RolloutSource, held: Sequence[Encoded], mine: str
) -> Run:
    """The parts that every run has; its hooks are put in when they are known."""
    heldout = HeldOut(held, learner, job.objective, job.spec.eval_every, source.total_steps)
    return Run(job.objective, learner, source, Account(learner), heldout, StopRequest(), mine)


def _steps(job: Job, source: FixedSource | RolloutSource) -> int:
    """Optimizer steps of the run, some of which come after the warm-up."""
    steps, warmup = source.total_steps * job.optimizer_steps, job.spec.warmup_steps
    if warmup is not None and warmup >= steps > 1:
        raise UserError(
            "warmup_steps",
            warmup,
            f"is as long as the run of {steps} steps: the peak is never reached",
            "lower it, or give warmup_ratio instead",
        )
    return steps


def _early(job: Job, run: Run, select: Sequence[Encoded]) -> StopEarly | None:
    """The hook that ends the run early by its own rows, if it is asked for."""
    spec = job.spec.early_stopping
    if spec is None:
        return None
    evaluated = HeldOut(select, run.learner, job.objective, job.spec.eval_every, run.source.total_steps)
    best = BestWeights(job.out / BEST, run.learner, "leave early_stopping out")
    return StopEarly(spec, evaluated, best, run.source.total_steps)


def _saver(job: Job, run: Run) -> SaveCheckpoints:
    """The hook that writes this stage's checkpoints."""
    # The file of a reward may change while a run is stopped: its hash is taken at each save.
    meta = {"method": method_name(job.spec.method), "identity": run.identity}
    # Whole weights are put together anew wherever the critic lives then; shards are not.
    if job.engine.sharded and "critic" in job.objective.needs.models:
        meta["critic"] = place_of_critic(job)
    return SaveCheckpoints(
        job.checkpoints,
        run.state,
        lambda: meta | {"rewards": reward_files(job.spec)},
        job.engine,
        run.source.total_steps,
    )


def _metrics_log(job: Job, saver: SaveCheckpoints) -> MetricsLog:
    """Metrics are over all processes, so that one of them writes them."""
    return MetricsLog(
        job.name,
        job.out / "metrics.jsonl" if job.engine.is_main else None,
        job.spec.trackers if job.engine.is_main else (),
        job.out / "trackers",
        job.spec.model_dump(mode="json"),
        saver.checkpoints,
    )


def _screen(job: Job, total: int, log: EventLog | None = None) -> Hook:
    """The live screen where a watched run has a terminal."""
    method = method_name(job.spec.method)
    # A run without a recipe is named after its method.
    title = method if job.name == method else f"{job.name}: {method}"
    if log is not None and job.console.is_terminal and job.engine.is_main:
        return ShowLive(job.console, title, total, log)
    return ShowProgress(job.console if job.engine.is_main else None, title, total)


def _say_unread_odds(job: Job, groups: Sequence[Group]) -> None:
    """Names a judge's odds that the method does not read."""
    if job.objective.needs.soft:
        return
    soft = sum(any(f.over(n + 1) is not None for n, f in enumerate(g.feedback[:-1])) for g in groups)
    if soft:
        job.say(
            f"data: {soft} of {len(groups)} labels have a judge's odds, which {method_name(job.spec.method)} "
            "does not read: they count as certain"
        )
