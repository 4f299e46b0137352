"""What cluster/ has to know of a train stage: its roles, and how much work a step is. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kilter import feedback as feedbacks
from kilter.feedback.registry import model_references
from kilter.launch.plan import Work
from kilter.launch.refusals import Facts
from kilter.launch.spec import ClusterSpec
from kilter.models.sizes import Sizes
from kilter.sampling.config import BESIDE, ENGINES, PAUSES
from kilter.training.config import TrainSpec

if TYPE_CHECKING:
    from kilter.batch import Needs
    from kilter.objectives.index import Brief

BEARS = {"": 0, "decoupled": 1, "anchored": 4}
"""Batches that a method may be ahead: a truncated weight bears one, a clipped ratio four."""


def facts(spec: TrainSpec, needs: Needs | Brief, where: str = "", gpus: int | None = None) -> Facts:
    """What the rules of a cluster read of a stage.

    Args:
        spec: the stage.
        needs: of its method.
        where: prefix of its fields in messages.
        gpus: of the cluster; None where nobody knows yet.
    """
    scored = [s for s in (spec.feedback, spec.monitors.gold) if s is not None]
    alone = needs.opponent is None
    lacks = {
        "rollout": (spec.prompts is None, "the data is fixed, and nothing is sampled"),
        "reference": _stays(needs),
        "teacher": (not needs.teacher, "this method learns from no teacher"),
        "reward": (not any(map(model_references, scored)), "no source of feedback opens a model"),
        "critic": ("critic" not in needs.models, "this method has no critic"),
    }
    reads = [] if alone else [f"the {needs.opponent} that this method samples from"]
    for source in scored:
        reads += feedbacks.live(source)
    return Facts(
        {role: why for role, (missing, why) in lacks.items() if missing},
        needs.corrections,
        spec.sampler.name,
        spec.sampler.name in PAUSES,
        min(reads, default=""),
        spec.refresh_reference_every,
        spec.processes,
        sum(len(model_references(s)) for s in scored),
        gpus,
        where=where,
    )


def fitting(cluster: ClusterSpec, spec: TrainSpec, needs: Needs | Brief) -> ClusterSpec | None:
    """What a stage can use of keys that are meant for several; None where all of its roles stay here."""
    lacks = facts(spec, needs).missing
    usual: list[str] = [role for role in cluster.roles() if role in lacks]
    if "rollout" in lacks:
        usual += ["lookahead", "in_flight", "correction", "weights"]
    found = cluster.model_copy(update={name: getattr(ClusterSpec(), name) for name in usual})
    moved = any(role.place != "here" for role in found.roles().values())
    return found if moved or found.learner.workers > 1 else None


def _stays(needs: Needs | Brief) -> tuple[bool, str]:
    """Whether the reference cannot live elsewhere, and why."""
    if needs.opponent is not None:
        return True, f"the {needs.opponent} that this method samples from reads it token by token"
    return not _reference(needs), "this method loads no reference"


def _reference(needs: Needs | Brief) -> bool:
    """Whether a second model answers for the reference or the opponent."""
    return "ref_logps" in needs.annotations or needs.opponent is not None


def rests(spec: TrainSpec, needs: Needs | Brief, divided: bool) -> bool:
    """Whether a policy that will be sharded need be whole on no GPU between its opening and that.

    A copy that answers beside its shards has to be whole, and so has a reference that is the policy before it
    learns. A teacher stays beside its student.

    Args:
        spec: the stage.
        needs: of its method.
        divided: whether workers answer in its place.
    """
    whole = not divided if spec.prompts is not None else "ref_logps" in needs.annotations
    return not needs.teacher and not whole


def opened_once(spec: TrainSpec, needs: Needs | Brief, divided: bool) -> bool:
    """Whether such a policy need be whole on one rank alone, which opens it. Fresh parts are every rank's."""
    return rests(spec, needs, divided) and spec.adapter is None and "reward" not in needs.models


def _opened(spec: TrainSpec, needs: Needs | Brief, trained: int) -> int:
    """Trained models that a GPU holds whole at once. Those that rest are there in turn."""
    divided = _divided(spec)
    if not rests(spec, needs, divided):
        return trained
    return min(1, trained - opened_once(spec, needs, divided))


def _divided(spec: TrainSpec) -> bool:
    """Whether the policy is sharded, and workers answer in its place."""
    assert spec.cluster is not None
    rollout, workers = spec.cluster.rollout.place, spec.cluster.learner.workers
    sampled = rollout == "apart" or (rollout == "beside" and spec.sampler.name in ENGINES)
    return spec.fsdp is not None and workers > 1 and sampled


def _frozen(spec: TrainSpec, needs: Needs | Brief) -> dict[str, int]:
    """Models that do not train, of each role that the method has. An adapter that is off is a reference."""
    assert spec.cluster is not None
    found = {}
    # Offline its log-probs are computed beforehand. Workers that do so keep their GPUs.
    if _reference(needs) and spec.prompts is None and spec.cluster.reference.place == "apart":
        found["reference"] = 1
    # Shards of the base, of which no process has a whole copy to sample from, answer for no reference either.
    if _reference(needs) and spec.prompts is not None:
        found["reference"] = int(spec.adapter is None or spec.reference is not None or _divided(spec))
    if needs.teacher:
        found["teacher"] = 1
    if count := _scores(spec) + _gold(spec):
        found["reward"] = count
    return found


def _scores(spec: TrainSpec) -> int:
    """Models that score every step."""
    return 0 if spec.feedback is None else len(model_references(spec.feedback))


def _gold(spec: TrainSpec) -> int:
    """Models of the gold source. They live where those that score every step do."""
    watched = spec.prompts is not None and spec.monitors.enabled and spec.monitors.gold is not None
    return len(model_references(spec.monitors.gold)) if watched else 0


def _forwards(
    spec: TrainSpec, needs: Needs | Brief, values: bool, frozen: Mapping[str, int], teacher: float
) -> tuple[float, float]:
    """(of the learner's own weights, of whole models beside them): forward passes beside its training.

    Each is as long as one of the policy.

    Args:
        spec: the stage.
        needs: of its method.
        values: whether the critic is here.
        frozen: models that do not train.
        teacher: its size, where the policy's is 1, times the passes over a batch: it reads in each of them.
    """
    assert spec.cluster is not None
    roles = spec.cluster.roles()
    # Old log-probs are computed anew unless they are exact, or the ratio is taken to the sampler's own.
    ahead = spec.cluster.lookahead
    inexact = spec.sampler.name != "local" or bool(ahead)
    anew = spec.prompts is not None and inexact and not (ahead and spec.cluster.correction == "anchored")
    reads = {"reference": 1.0, "teacher": teacher, "reward": float(_scores(spec))}
    here = sum(long for name, long in reads.items() if name in frozen and roles[name].place == "here")
    return int(anew) + ("old_values" in needs.annotations and values), here


def work(
    spec: TrainSpec,
    needs: Needs | Brief,
    size: Sizes,
    answer: float | None = None,
    teacher: Sizes | None = None,
) -> Work:
    """What a step of a stage computes. Nobody has seen the data: a prompt takes half of its room.

    Args:
        spec: the stage, whose cluster says where roles are.
        needs: of its method.
        size: of the policy; models that nobody knows are taken to be as large.
        answer: mean tokens of an answer; None: half of the longest.
        teacher: of the teacher, where it is known.
    """
    assert spec.cluster is not None, "a stage without a cluster is not planned"
    online, half = spec.prompts is not None, spec.dtype == "bfloat16"
    longest = spec.sampler.max_new_tokens if online else 0
    mean = answer or longest / 2
    room = spec.max_length - longest
    critic = "critic" in needs.models
    frozen = _frozen(spec, needs)
    roles = {"learner", *frozen, *(["rollout"] if online else []), *(["critic"] if critic else [])}

    trained = 1 + (critic and spec.cluster.critic.place == "here")
    passes = (spec.inner_epochs or needs.inner_epochs) if online else 1
    taught = passes * (1.0 if teacher is None else teacher.parameters / size.parameters)
    own, whole = _forwards(spec, needs, trained == 2, frozen, taught)
    adapter = 0 if spec.adapter is None else size.adapter(spec.adapter.r)
    adapted = spec.adapter is not None
    kept = size.activations(spec.tokens_per_microbatch, half, spec.gradient_checkpointing, adapted)
    return Work(
        size,
        frozenset(roles),
        trained,
        {name: count for name, count in frozen.items() if count},
        own + whole,
        whole,
        passes,
        spec.batch_size,
        spec.sampler.samples if online else 0,
        room / 2 if online else 0,
        mean if online else room,
        longest,
        adapter,
        (spec.fsdp.shard or spec.cluster.learner.workers) if spec.fsdp else 1,
        2 if half else 4,
        spec.tokens_per_microbatch,
        kept,
        spec.sampler.name in PAUSES,
        max(BEARS[c] for c in ("", *needs.corrections)),
        spec.sampler.name in ENGINES,
        spec.sampler.memory or BESIDE,
        teacher,
        _opened(spec, needs, trained),
        rests(spec, needs, _divided(spec)),
        _scores(spec),
        int("old_values" in needs.annotations),
    )
