"""The parts of fresh rollouts: samplers, feedback, their source, and the gold source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kilter import feedback as feedbacks
from kilter.data.encode import Encoder
from kilter.data.worlds.registry import world_of
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.itself import judging_itself
from kilter.feedback.registry import Weighted
from kilter.feedback.worlds import OwnJudge
from kilter.models.descent import descent
from kilter.models.forward import Scorer
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import SamplerKind
from kilter.sampling.local import LocalSampler
from kilter.seams import FeedbackSource, Sampler
from kilter.training import scorers
from kilter.training.config import TrainSpec
from kilter.training.job import Job
from kilter.training.monitors import GoldEvaluator
from kilter.training.sources.answers import Answers, GreedyBaseline, OpposedAnswers, PolicyAnswers
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.rollouts import RolloutSource
from kilter.training.sources.select import choose_select
from kilter.training.whole import WholeCopy, WholeSampler
from kilter.types import Feedback, Group, Prompt, SamplingParams

JUDGED_LENGTH = 2048
"""Tokens that a judging model reads at least, prompt and answer."""

GOLD_SEED = 20_000
"""Added to the run's seed for held-out answers, so that they are not drawn as the rollouts are."""


def make_source(
    job: Job, policy: Scorer, encoder: Encoder, reference: Scorer | None, whole: WholeCopy | None = None
) -> RolloutSource:
    """The source over the stage's prompts, with its samplers and its feedback.

    Args:
        job: settings and engine.
        policy: answers, and is asked by some feedback; of a policy that will be sharded its copy.
        encoder: of the policy.
        reference: frozen, where the method wants one.
        whole: the copy, where there is one.
    """
    spec, engine = job.spec, job.engine
    scored_by = _feedback(job, policy, encoder)
    if engine.sharded and whole is None:
        _refuse_sharded(job, scored_by)
    return RolloutSource(
        PromptOrder([g.prompt for g in job.groups], spec.shuffle, spec.seed),
        _answers(job, policy, encoder, reference, scored_by, whole),
        scored_by,
        encoder,
        job.objective.needs,
        spec.sampler,
        job.out / "groups.jsonl" if engine.is_main else None,
        spec.batch_size,
        choose_select(spec.select, job.objective.needs),
        spec.refill,
        spec.epochs,
        spec.max_steps,
        spec.seed,
        engine.rank,
        engine.world,
        engine.gather,
        lookahead=0 if job.cluster is None else job.cluster.spec.lookahead,
    )


def _feedback(job: Job, policy: Scorer, encoder: Encoder) -> Weighted:
    """The sources that score the answers.

    A teacher's distribution is the whole signal of distillation: no score then.
    """
    spec = job.spec
    if spec.feedback is None:
        return Weighted([("teacher", 0.0, Unjudged())])
    # A judge reads prompt and answer, which may be longer than what trains.
    length = max(spec.max_length, JUDGED_LENGTH)
    context = Context(
        job.resolve,
        (policy, encoder),
        length,
        spec.template,
        job.groups,
        job.engine.gather,
        job.out,
        job.certificates,
    )
    found = feedbacks.build(spec.feedback, _placed(job, context))
    _say_itself(job, found)
    return found


def _placed(job: Job, context: Context) -> Context:
    """The context whose sources open their models where the run wants them."""
    cluster = job.apart("reward")
    return context if cluster is None else replace(context, scores=cluster.scores, sampler=cluster.judge)


def _say_itself(job: Job, source: Weighted) -> None:
    """Names a judge whose model the policy started from."""
    history = source.history()
    for words in judging_itself(history, descent(job.start)) if history else ():
        job.say(words)


class Unjudged(FeedbackSource):
    """Every answer scores 0: nobody reads the score."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return [[Feedback(0.0, "unjudged")] * len(g.completions) for g in groups]


def _refuse_sharded(job: Job, scored_by: Weighted) -> None:
    """Where rollouts are apart no process holds the whole policy, which some ask for in their own process."""
    mixes = job.objective.needs.opponent == "mixture"
    if mixes or scored_by.wants.policy:
        who = "the opponent of this method" if mixes else "this feedback"
        raise UserError(
            "fsdp",
            True,
            f"leaves no process the whole policy, which {who} needs there while rollouts are apart",
            "leave fsdp out, or set cluster.rollout.place: here",
        )


def _answers(
    job: Job,
    policy: Scorer,
    encoder: Encoder,
    reference: Scorer | None,
    scored_by: Weighted,
    whole: WholeCopy | None,
) -> Answers:
    """Who answers: the policy, and whoever the method wants beside it."""
    needs, samples = job.objective.needs, job.spec.sampler.samples
    sampler = _sampler(job, policy, encoder)
    if whole is not None:
        sampler = WholeSampler(sampler, whole)
    if needs.opponent is not None:
        return OpposedAnswers(sampler, _opponent(job, policy, encoder, reference))
    if "greedy_score" in needs.annotations:
        return GreedyBaseline(sampler, samples, scored_by)
    return PolicyAnswers(sampler, samples)


def _opponent(job: Job, policy: Scorer, encoder: Encoder, reference: Scorer | None) -> Sampler:
    """Opens the reference, or a geometric mixture of it and the policy.

    A mixture needs both models' logits, so it is local.
    """
    needs = job.objective.needs
    # An adapter that is switched off is no second model: it could not answer while the policy does.
    if reference is None:
        raise UserError(
            "adapter",
            "lora",
            f"gives no second model to sample the {needs.opponent} from",
            "train all weights",
        )
    if needs.opponent == "reference":
        return _local(job.spec, reference, encoder)
    return _local(job.spec, policy, encoder, (reference, needs.settings["mixture"]))


def _local(
    spec: TrainSpec, scorer: Scorer, encoder: Encoder, mixture: tuple[Scorer, float] | None = None
) -> LocalSampler:
    amp = spec.dtype == "bfloat16"
    return LocalSampler(scorer, encoder, spec.sampler.tokens_per_batch, amp=amp, mixture=mixture)


def _sampler(job: Job, policy: Scorer, encoder: Encoder) -> Sampler:
    """Opens the policy's sampler that the recipe names, here or in workers of its own."""
    spec = job.spec
    cluster = job.cluster
    if cluster is not None and cluster.samples(spec.sampler.name):
        kind = SamplerKind(**{n: getattr(spec.sampler, n) for n in SamplerKind.model_fields})
        trained = lambda: job.engine.state(policy, cluster.team.leads)
        return cluster.rollouts(scorers.elsewhere(job), kind, spec.dtype, policy, trained)
    return build(SamplerContext(spec.sampler, lambda: (policy, encoder), dtype=spec.dtype))


def make_gold(job: Job, source: RolloutSource) -> GoldEvaluator | None:
    """Judges answers to prompts of their own: by the source that is named, or by the prompts' world.

    Returns:
        None where the run is not watched, or has neither a gold source nor such prompts.
    """
    spec = job.spec
    prompts = _distinct(job.select)[: spec.monitors.gold_prompts]
    if not spec.monitors.enabled:
        return None
    if not prompts and spec.monitors.gold is not None:
        raise UserError(
            "monitors.gold",
            spec.monitors.gold,
            "has no prompts to judge: at most a quarter of the training prompts is set aside for it",
            "give more prompts, or leave it out",
        )
    s = spec.sampler
    seed = GOLD_SEED + spec.seed
    params = SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), seed)
    sampler, proxy = source.answers.samplers[0], source.feedback

    # A source that the recipe names stands before the data's own; it may have a scale that belongs into a
    # checkpoint.
    if spec.monitors.gold is not None:
        context = Context(
            job.resolve,
            None,
            max(spec.max_length, JUDGED_LENGTH),
            spec.template,
            folder=job.out,
            certificates=job.certificates,
        )
        judge = feedbacks.build(spec.monitors.gold, _placed(job, context), "monitors.gold")
        _say_itself(job, judge)
        return GoldEvaluator(prompts, sampler, judge, proxy, params)
    if prompts and all(map(world_of, prompts)):
        return GoldEvaluator(prompts, sampler, OwnJudge(prompts), proxy, params)
    return None


def _distinct(groups: Sequence[Group]) -> list[Prompt]:
    """Every prompt once, in order."""
    seen: dict[str, Prompt] = {}
    for group in groups:
        seen.setdefault(repr(group.prompt.messages or group.prompt.text), group.prompt)
    return list(seen.values())
