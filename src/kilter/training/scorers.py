"""The models of a run: policy, critic, teacher, reference. All of them are opened through roles/open.py."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kilter import errors
from kilter import feedback as feedbacks
from kilter.data.collate import collate
from kilter.data.encode import Encoder
from kilter.data.shelf import picked
from kilter.errors import KilterError, UserError
from kilter.hashes import cache_root
from kilter.models import proof
from kilter.models.critic import ActorCritic
from kilter.models.divergence import Teacher
from kilter.models.fingerprint import model_hash
from kilter.models.forward import Scorer
from kilter.models.load import fillable, outline
from kilter.models.microbatch import split
from kilter.models.reference import ReferenceCache
from kilter.models.resolve import base_of
from kilter.models.tokenizer import load_tokenizer
from kilter.progress import SILENT, Display, Progress
from kilter.roles.open import OpenSpec, Ready, open_empty, open_encoder, open_model
from kilter.runtime import all_cores
from kilter.training.apart.critic import CriticWorker, PooledCritic
from kilter.training.apart.reference import PooledReference
from kilter.training.config import TrainSpec
from kilter.training.job import Job
from kilter.training.placing import opened_once, rests
from kilter.types import Encoded

ROOM = 0.7
"""Share of a GPU's free memory that a model may take to be proven there; activations take theirs."""

LOOKED_UP = 64
"""Groups whose reference log-probs are computed between two lines of progress."""


def make_encoder(spec: TrainSpec, start: Path) -> Encoder:
    """Tokenizer with the stage's length and template; prompts leave room for the answers to them."""
    opening = OpenSpec(start, template=spec.template, max_length=spec.max_length)
    return open_encoder(replace(opening, max_prompt=_room(spec)))


def _room(spec: TrainSpec) -> int | None:
    """Tokens that an answer leaves for its prompt."""
    return max(1, spec.max_length - spec.sampler.max_new_tokens) if spec.prompts is not None else None


def elsewhere(job: Job) -> OpenSpec:
    """How another process opens the policy, so that its tensors have the learner's names."""
    opening = replace(_opening(job, job.start), device=None, gradient_checkpointing=False)
    return replace(opening, max_prompt=_room(job.spec))


def make_scorer(job: Job, encoder: Encoder) -> Scorer | ActorCritic:
    """The model that trains, with its teacher and critic where the method has one."""
    needs, opening = job.objective.needs, _opening(job, job.start)
    # A reward model may begin from a policy: its head is new.
    if "reward" in needs.models:
        opening = replace(opening, head="fresh_reward")
    resting = job.engine.divides and rests(job.spec, needs, job.divided)
    thin = resting and opened_once(job.spec, needs, job.divided) and fillable(job.start)
    ready = _opened_once(job, opening, encoder) if thin else open_model(opening, encoder)
    policy = ready.scorer
    if ready.finding is not None:
        job.say(proof.describe(ready.finding))
    if needs.teacher:
        policy.teach(_teacher(job, encoder, policy), needs.settings["divergence"])
    if resting:
        _put_by(policy)
    scorer: Scorer | ActorCritic = policy
    if "critic" in needs.models and job.apart("critic") is None:
        scorer = ActorCritic(policy, open_model(_critic(job, encoder), encoder).scorer)
    if resting:
        # A layer comes to the GPU when it is divided.
        job.engine.divide(scorer)
        _give_back()
    return scorer


def _put_by(policy: Scorer) -> None:
    """Leaves the GPU to the next model; what has no numbers takes no place."""
    if not next(policy.parameters()).is_meta:
        policy.to("cpu")
    _give_back()


def _give_back() -> None:
    """Returns freed memory of the GPU: engines and other processes count what is free."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _opened_once(job: Job, opening: OpenSpec, encoder: Encoder) -> Ready:
    """The policy: with its numbers on the first rank, which proves it, and without them on the others."""
    ready: Ready | None = None
    told: tuple[Any, ...] = (None, (), "", ())
    if job.engine.is_main:
        try:
            with all_cores():
                ready = open_model(replace(opening, device=_roomy(job)), encoder)
            told = ready.finding, ready.scorer.slimmed, "", ()
        except KilterError as error:
            told = None, (), type(error).__name__, error.arguments
    # What the first rank cannot open, none can. To read and prove a large model takes it long.
    finding, slimmed, kind, arguments = job.engine.team(1).gather(told)[0]
    if (failed := errors.made_again(kind, arguments)) is not None:
        raise failed
    return ready or open_empty(opening, encoder, finding, slimmed)


def _roomy(job: Job) -> torch.device:
    """Where a whole policy is proven: on the first rank's own device, or on the CPU if it is too large."""
    device = job.engine.device
    if device.type != "cuda":
        return device
    wanted = 4 * sum(p.numel() for p in outline(base_of(job.start)[0]).parameters())
    if wanted < ROOM * torch.cuda.mem_get_info(device)[0]:
        return device
    job.say(f"forward: proven on the CPU, since one GPU has no room for {wanted / 1e9:.0f} GB")
    return torch.device("cpu")


def critic_apart(job: Job, encoder: Encoder) -> PooledCritic | None:
    """The critic in processes of its own; None where it is here, or where there is none."""
    cluster = job.apart("critic")
    if cluster is None:
        return None
    opening = replace(_critic(job, encoder), device=None)
    # Its weights stand nowhere else: a successor would know nothing of what it learned.
    arguments = {"opening": opening, "spec": job.spec, "world": cluster.spec.critic.workers}
    pool = None
    if job.engine.is_main:
        pool = cluster.pool("critic", CriticWorker, arguments, together=True)
    return PooledCritic(pool, job.engine, opening)


def _critic(job: Job, encoder: Encoder) -> OpenSpec:
    """How the critic is opened."""
    # A critic that begins as the reward model knows from the first step what an answer is worth.
    rewards = _reward_models(job.spec)
    named = job.spec.critic.start or (rewards[0] if rewards else None)
    origin = job.resolve(named) if named else job.start
    if not _same_vocabulary(origin, encoder):
        raise UserError(
            "critic.from",
            str(origin),
            "has another vocabulary than the policy",
            "name a reward model trained from the policy's family, or the policy",
        )
    return replace(_opening(job, origin), head="fresh_reward")


def critic_is_the_reward(spec: TrainSpec) -> bool:
    """Whether the critic began as the reward model that scores the rollouts."""
    rewards = _reward_models(spec)
    return bool(rewards) and spec.critic.start in (None, rewards[0])


def fill_reference_cache(
    job: Job, policy: Scorer, encoder: Encoder, groups: Sequence[Encoded], temperature: float
) -> ReferenceCache:
    """Fills the cache with every group before the first update, while the policy still is the reference.

    Args:
        job: names the reference.
        policy: serves as the reference where it starts from it.
        encoder: of the policy.
        groups: all groups that will be looked up, those of the other processes included.
        temperature: of the rollouts, 1 for fixed data.
    """
    folder = job.reference or job.start
    own_reference = folder == job.start
    # The key holds all that a log-prob depends on, so that another run may find it.
    cache = ReferenceCache(
        cache_root() / "reference.sqlite",
        model_hash(folder),
        _precision(job.spec, own_reference),
        temperature,
    )

    apart = reference_apart(job, policy, temperature)

    def fill(share: Sequence[Encoded]) -> bool:
        missing = picked(share, [i for i, g in enumerate(share) if cache.lookup(collate([g])) is None])
        if missing and apart is not None:
            _ask(apart, missing, cache)
        elif missing:
            model = policy if own_reference else _frozen(job, folder, encoder)
            _compute(job, model, missing, cache, temperature)
        return bool(missing)

    # Each process fills its share of one file, which all read afterwards.
    mine = groups[job.engine.rank :: job.engine.world]
    if not any(job.engine.gather(fill(mine))):
        job.say(f"reference log-probs of all {len(groups)} groups found in the cache")
    # Unless they do not share a disk: whoever cannot find a row of every other computes what it lacks.
    first = {key for keys in job.engine.gather(cache.keys(collate(mine[:1]))) for key in keys}
    if len(cache.get(list(first))) < len(first):
        fill(groups)
    job.engine.barrier()
    if apart is not None:
        apart.close()
    return cache


def _ask(apart: PooledReference, groups: Sequence[Encoded], cache: ReferenceCache) -> None:
    """Log-probs of these groups from workers into the cache."""
    for first in range(0, len(groups), LOOKED_UP):
        chunk = collate(list(groups[first : first + LOOKED_UP]))
        cache.put(cache.keys(chunk), apart.lookup(chunk), chunk.length_B)


def reference_apart(job: Job, policy: Scorer, temperature: float) -> PooledReference | None:
    """The reference in workers of its own; None where it is here.

    Args:
        job: names the reference.
        policy: its weights move the reference.
        temperature: of the rollouts.
    """
    cluster = job.apart("reference")
    if cluster is None:
        return None
    _refuse_moving_base(job)
    folder = job.reference or job.start
    # The base under an adapter is opened as the policy is: a rounded one has other log-probs than a full one.
    opening = _opening(job, folder, trains=job.spec.adapter is not None and folder == job.start)
    opening = replace(opening, device=None, gradient_checkpointing=False)
    budget = job.spec.tokens_per_microbatch
    return cluster.reference(opening, temperature, budget, lambda: job.engine.state(policy, wanted=True))


def frozen_reference(job: Job, policy: Scorer, encoder: Encoder) -> Scorer | None:
    """A second model for fresh rollouts; None where the policy with its adapters off is the reference."""
    spec, folder = job.spec, job.reference or job.start
    # Shards of the base cannot answer for this process alone, where no copy of them is whole.
    if spec.adapter is None or folder != job.start or job.divided:
        return _frozen(job, folder, encoder)
    _refuse_moving_base(job)
    return None


def _refuse_moving_base(job: Job) -> None:
    """The base under an adapter is the policy's own, and cannot become the policy."""
    spec = job.spec
    if spec.refresh_reference_every and spec.adapter is not None and job.reference in (None, job.start):
        raise UserError(
            "refresh_reference_every",
            spec.refresh_reference_every,
            "cannot move a reference that is the base under an adapter",
            "train all weights, or leave it out",
        )


def _opening(job: Job, model: Path, trains: bool = True) -> OpenSpec:
    """What the stage says about any model it opens; frozen ones have no adapter and save no activations."""
    spec = job.spec
    return OpenSpec(
        model,
        device=job.engine.device,
        dtype=spec.dtype,
        template=spec.template,
        max_length=spec.max_length,
        adapter=spec.adapter if trains else None,
        gradient_checkpointing=spec.gradient_checkpointing and trains,
        trains=trains,
        seed=spec.seed,
    )


def _teacher(job: Job, encoder: Encoder, policy: Scorer) -> Teacher:
    """Opens the teacher here or in workers. It must have the policy's vocabulary."""
    if job.spec.teacher is None:
        raise UserError(
            "teacher", None, "is required by this method", "name a stage or a model to learn from"
        )
    folder = job.resolve(job.spec.teacher)
    if not _same_vocabulary(folder, encoder):
        raise UserError(
            "teacher",
            job.spec.teacher,
            "has another vocabulary than the student",
            "choose a teacher of the student's family",
        )
    opening, cluster = _opening(job, folder, trains=False), job.apart("teacher")
    if cluster is not None:
        return cluster.teacher(replace(opening, device=None)).to(policy.device)
    return open_model(opening, encoder).scorer


def _frozen(job: Job, folder: Path, encoder: Encoder) -> Scorer:
    """A frozen model beside the policy."""
    return open_model(_opening(job, folder, trains=False), encoder).scorer


def _same_vocabulary(folder: Path, encoder: Encoder) -> bool:
    return bool(load_tokenizer(folder).get_vocab() == encoder.tokenizer.get_vocab())


def _reward_models(spec: TrainSpec) -> list[str]:
    """Reward models among the sources that score the rollouts."""
    return feedbacks.model_references(spec.feedback, ("reward_model",)) if spec.feedback is not None else []


def _precision(spec: TrainSpec, own_reference: bool) -> str:
    """Part of a row's key: under qlora, the rounded base has other log-probs than the full one."""
    # Only the policy itself was rounded; another model is read in full.
    rounded = own_reference and spec.adapter is not None and spec.adapter.kind == "qlora"
    return f"{spec.dtype}|nf4" if rounded else spec.dtype


def _compute(
    job: Job, model: Scorer, groups: Sequence[Encoded], cache: ReferenceCache, temperature: float
) -> None:
    """Log-probs of these groups into the cache; with adapters the reference is the policy without them."""
    off = model.model.disable_adapter() if hasattr(model.model, "peft_config") else contextlib.nullcontext()
    display: Progress = SILENT
    if job.engine.is_main:
        display = Display(job.console, f"{job.name}: reference", len(groups))
    model.eval()
    with off, torch.no_grad(), contextlib.closing(display):
        done = 0
        for first in range(0, len(groups), LOOKED_UP):
            chunk = collate(list(groups[first : first + LOOKED_UP]))
            # Written micro-batch by micro-batch: a kill loses one of them.
            for part in split(chunk, job.spec.tokens_per_microbatch, model.shared):
                out = model(part, temperature=temperature, amp=job.spec.dtype == "bfloat16")
                cache.put(cache.keys(part), out.logps_BT, part.length_B)
                done += part.groups()
                display.update(done, "log-probs")
