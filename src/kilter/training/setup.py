"""What a run is made of: encoder, models, reference, source. Each function takes the spec and gives one part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from kilter import feedback as feedbacks
from kilter.batch import Needs, Objective
from kilter.data.arrange import joint, with_mismatched
from kilter.data.collate import collate
from kilter.data.encode import Encoder
from kilter.data.worlds.support_desk import GoldFeedback, has_gold
from kilter.errors import UserError
from kilter.feedback.registry import Context, Weighted
from kilter.models.critic import ActorCritic
from kilter.models.forward import Scorer
from kilter.models.load import cache_root, load_tokenizer, model_hash
from kilter.models.microbatch import split
from kilter.models.reference import ReferenceCache
from kilter.objectives.rl.nash_md import NashMD
from kilter.progress import SILENT, Display, Progress
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.sampling.local import LocalSampler
from kilter.seams import FeedbackSource, Sampler
from kilter.training.config import TrainSpec
from kilter.training.monitors import GoldEvaluator
from kilter.training.parallel.engine import Engine
from kilter.training.sources.answers import Answers, GreedyBaseline, OpposedAnswers, PolicyAnswers
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.rollouts import RolloutSource
from kilter.training.sources.select import choose_select
from kilter.types import Encoded, Feedback, Group, Prompt, SamplingParams

Resolve = Callable[[str], Path]


def with_label(groups: Sequence[Group], label: int) -> list[Group]:
    """Judged single answers with this label."""
    return [g for g in groups if (float(g.feedback[0].score or 0) > 0) == bool(label)]


def arrange(
    groups: list[Encoded], needs: Needs, max_length: int, pool: Sequence[Encoded] = ()
) -> list[Encoded]:
    """Encoded groups as the method reads them: with mismatched answers beside them, or both answers of a pair in one row."""
    if needs.mismatched and groups:
        return with_mismatched(groups, max_length, pool)
    return joint(groups, max_length) if needs.joint else groups


def _opening(spec: TrainSpec, model: Path, engine: Engine, trains: bool = True) -> OpenSpec:
    """What the stage says about any model it opens; frozen ones have no adapter and save no activations."""
    return OpenSpec(
        model,
        device=engine.device,
        dtype=spec.dtype,
        template=spec.template,
        max_length=spec.max_length,
        adapter=spec.adapter if trains else None,
        gradient_checkpointing=spec.gradient_checkpointing and trains,
        trains=trains,
        seed=spec.seed,
    )


def make_encoder(spec: TrainSpec, start: Path) -> Encoder:
    """Tokeniser with the stage's length and template; online, prompts leave room for the completion."""
    room = max(1, spec.max_length - spec.sampler.max_new_tokens) if spec.prompts is not None else None
    return open_encoder(OpenSpec(start, template=spec.template, max_length=spec.max_length, max_prompt=room))


def make_scorer(
    spec: TrainSpec, start: Path, objective: Objective, encoder: Encoder, resolve: Resolve, engine: Engine
) -> Scorer | ActorCritic:
    """The model that trains, with its critic where the method has one."""
    opening = _opening(spec, start, engine)
    if "reward" in objective.needs.models:
        opening = replace(opening, head="fresh_reward")
    policy = open_model(opening, encoder).scorer
    if objective.needs.teacher is not None:
        policy.teach(make_teacher(spec, encoder, resolve, engine), objective.needs.teacher)
    if "critic" not in objective.needs.models:
        return policy
    rewards = (
        feedbacks.model_references(spec.feedback, ("reward_model",)) if spec.feedback is not None else []
    )
    origin = resolve(spec.critic.start) if spec.critic.start else resolve(rewards[0]) if rewards else start
    if load_tokenizer(origin).get_vocab() != encoder.tokenizer.get_vocab():
        raise UserError(
            "critic.from",
            str(origin),
            "has another vocabulary than the policy",
            "name a reward model trained from the policy's family, or the policy",
        )
    critic = open_model(replace(_opening(spec, origin, engine), head="fresh_reward"), encoder)
    return ActorCritic(policy, critic.scorer)


def critic_is_the_reward(spec: TrainSpec) -> bool:
    """Whether the critic began as the reward model that scores the rollouts."""
    rewards = (
        feedbacks.model_references(spec.feedback, ("reward_model",)) if spec.feedback is not None else []
    )
    return bool(rewards) and spec.critic.start in (None, rewards[0])


def make_teacher(spec: TrainSpec, encoder: Encoder, resolve: Resolve, engine: Engine) -> Scorer:
    """The model that is learned from; it must share the student's vocabulary."""
    if spec.teacher is None:
        raise UserError(
            "teacher", None, "is required by this method", "name a stage or a model to learn from"
        )
    folder = resolve(spec.teacher)
    if load_tokenizer(folder).get_vocab() != encoder.tokenizer.get_vocab():
        raise UserError(
            "teacher",
            spec.teacher,
            "has another vocabulary than the student",
            "choose a teacher of the student's family",
        )
    return open_model(_opening(spec, folder, engine, trains=False), encoder).scorer


def policy_of(scorer: Scorer | ActorCritic) -> Scorer:
    """The policy alone."""
    return scorer.policy if isinstance(scorer, ActorCritic) else scorer


def open_reference(spec: TrainSpec, folder: Path, policy: Scorer, encoder: Encoder, engine: Engine) -> Scorer:
    """A frozen model beside the policy, which reads rows in the policy's own layout."""
    opening = replace(_opening(spec, folder, engine, trains=False), shared=policy.shared)
    return open_model(opening, encoder).scorer


def fill_reference_cache(
    spec: TrainSpec,
    scorer: Scorer,
    folder: Path,
    own_reference: bool,
    groups: Sequence[Encoded],
    encoder: Encoder,
    engine: Engine,
    console: Console,
    name: str,
    temperature: float = 1.0,
) -> ReferenceCache:
    """The cache with every group in it: computed before the first update, when the model still is its own reference."""
    # Under qlora the reference is the rounded base, whose log-probs are not the full one's.
    precision = (
        f"{spec.dtype}|nf4"
        if own_reference and spec.adapter is not None and spec.adapter.kind == "qlora"
        else spec.dtype
    )
    cache = ReferenceCache(cache_root() / "reference.sqlite", model_hash(folder), precision, temperature)
    own = groups[engine.rank :: engine.world]
    missing = [g for g in own if cache.lookup(collate([g])) is None]
    if missing:
        model = scorer if own_reference else open_reference(spec, folder, scorer, encoder, engine)
        off = (
            model.model.disable_adapter() if hasattr(model.model, "peft_config") else contextlib.nullcontext()
        )
        display: Progress = Display(console, f"{name}: reference", len(missing)) if engine.is_main else SILENT
        model.eval()
        with off, torch.no_grad(), contextlib.closing(display):
            done = 0
            for first in range(0, len(missing), 64):
                chunk = collate(missing[first : first + 64])
                for part in split(chunk, spec.tokens_per_microbatch, model.shared):
                    out = model(part, temperature=temperature, amp=spec.dtype == "bfloat16")
                    cache.put(cache.keys(part), out.logps_BT, part.length_B)
                    done += part.groups()
                    display.update(done, "log-probs")
    elif engine.is_main:
        console.print(
            f"  reference log-probs of all {len(groups)} groups found in the cache", highlight=False
        )
    engine.barrier()
    return cache


def frozen_reference(
    spec: TrainSpec, scorer: Scorer, folder: Path, start: Path, encoder: Encoder, engine: Engine
) -> Scorer | None:
    """A second model for fresh rollouts; None where the policy with its adapters off is the reference."""
    if spec.adapter is not None and folder == start:
        if spec.refresh_reference_every:
            raise UserError(
                "refresh_reference_every",
                spec.refresh_reference_every,
                "cannot move a reference that is the base under an adapter",
                "train all weights, or leave it out",
            )
        return None
    return open_reference(spec, folder, scorer, encoder, engine)


def make_sampler(
    spec: TrainSpec,
    scorer: Scorer,
    encoder: Encoder,
    start: Path,
    mixture: tuple[Scorer, float] | None = None,
) -> Sampler:
    """By name; a mixture needs both models' logits and is always local."""
    if spec.sampler.name == "vllm" and mixture is None:
        from kilter.sampling.vllm import VllmSampler

        return VllmSampler(scorer, encoder, spec.sampler, spec.dtype)
    return LocalSampler(
        scorer, encoder, spec.sampler.tokens_per_batch, amp=spec.dtype == "bfloat16", mixture=mixture
    )


def make_source(
    spec: TrainSpec,
    objective: Objective,
    groups: Sequence[Group],
    scorer: Scorer,
    encoder: Encoder,
    start: Path,
    reference: Scorer | None,
    out: Path,
    resolve: Resolve,
    engine: Engine,
) -> RolloutSource:
    """The online source with its sampler and feedback."""
    needs = objective.needs
    context = Context(
        resolve,
        (scorer, encoder),
        max(spec.max_length, 2048),
        spec.template,
        groups[: spec.limit],
        engine.gather,
    )
    # The teacher's distribution is the whole signal of distillation: its answers need no score.
    scored_by = (
        feedbacks.build(spec.feedback, context)
        if spec.feedback is not None
        else Weighted([("teacher", 0.0, _unjudged)])
    )
    opponent: Sampler | None = None
    if needs.opponent is not None:
        if reference is None:
            raise UserError(
                "adapter",
                "lora",
                f"gives no second model to sample the {needs.opponent} from",
                "train all weights",
            )
        share = objective.mixture if isinstance(objective, NashMD) else 1.0
        if needs.opponent == "reference":
            opponent = LocalSampler(
                reference, encoder, spec.sampler.tokens_per_batch, amp=spec.dtype == "bfloat16"
            )
        else:
            opponent = make_sampler(spec, scorer, encoder, start, (reference, share))
    path = "groups.jsonl" if engine.rank == 0 else f"groups.rank{engine.rank}.jsonl"
    sampler = make_sampler(spec, scorer, encoder, start)
    answers: Answers = PolicyAnswers(sampler, spec.sampler.samples)
    if opponent is not None:
        answers = OpposedAnswers(sampler, opponent)
    elif needs.greedy_baseline:
        answers = GreedyBaseline(sampler, spec.sampler.samples, scored_by)
    return RolloutSource(
        PromptOrder([g.prompt for g in groups[: spec.limit]], spec.shuffle, spec.seed),
        answers,
        scored_by,
        encoder,
        needs,
        spec.sampler,
        out / path,
        spec.batch_size,
        choose_select(spec.select, needs),
        spec.refill,
        spec.epochs,
        spec.max_steps,
        spec.seed,
        engine.rank,
        engine.world,
        engine.gather,
    )


def _unjudged(groups: Sequence[Group]) -> list[list[Feedback]]:
    return [[Feedback(0.0, "unjudged")] * len(g.completions) for g in groups]


def make_gold(
    spec: TrainSpec,
    heldout: Sequence[Group],
    source: RolloutSource,
    encoder: Encoder,
    scorer: Scorer,
    resolve: Resolve,
) -> GoldEvaluator | None:
    """The gold evaluator: the source that the recipe names, or the support desk's own; None without one or without held-out prompts."""
    seen: dict[str, Prompt] = {}
    for group in heldout:
        seen.setdefault(repr(group.prompt.messages or group.prompt.text), group.prompt)
    prompts = list(seen.values())[: spec.monitors.gold_prompts]
    if not spec.monitors.enabled:
        return None
    if not prompts:
        if spec.monitors.gold is not None:
            raise UserError(
                "monitors.gold",
                spec.monitors.gold,
                "has no held-out prompts to judge",
                "set data.heldout above 0, or leave it out",
            )
        return None
    judge: FeedbackSource
    if spec.monitors.gold is not None:
        judge = feedbacks.build(
            spec.monitors.gold,
            Context(resolve, None, max(spec.max_length, 2048), spec.template),
            "monitors.gold",
        )
    elif all(has_gold(p) for p in prompts):
        judge = GoldFeedback()
    else:
        return None
    params = SamplingParams(
        spec.sampler.max_new_tokens,
        spec.sampler.temperature,
        spec.sampler.top_p,
        spec.sampler.top_k,
        tuple(spec.sampler.stop),
        seed=20_000 + spec.seed,
    )
    proxy: Weighted = source.feedback
    return GoldEvaluator(prompts, source.answers.samplers[0], judge, proxy, params)
