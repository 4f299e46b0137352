"""What a cluster cannot run, refused before anything is loaded: roles, GPUs, ways for weights, lookahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kilter.errors import UserError
from kilter.launch.spec import ClusterSpec, Copies, Place, RoleSpec

BETWEEN_GPUS: Mapping[str, Place] = {"nccl": "apart", "ipc": "beside"}
"""Ways of vLLM's own for weights, and the place of the engines that they reach."""


CROWD = 64
"""Processes without a GPU that a core bears at most: each has a torch of its own, and waits for others."""


@dataclass(frozen=True)
class Facts:
    """What the refusals have to know of a run.

    Args:
        missing: roles that the method has not, with the reason.
        corrections: words of `correction` that the method has.
        sampler: its name.
        pauses: whether the sampler can hold its answers while weights change.
        reads_policy: who samples or scores with the learner's own weights; "": nobody.
        refresh: steps after which the reference becomes the policy.
        processes: of the train stage itself, beside the cluster's.
        rewards: models that score, each of which has copies of its own.
        gpus: of the whole cluster; None where nobody knows yet.
        cores: of the one machine of a Ray of its own; None where nobody knows yet.
        heads: of queries and of keys in the policy; 0 where nobody knows them.
        paths: fields that name files, with what they hold.
        where: prefix of fields in messages, such as "stages.ppo.train.".
    """

    missing: Mapping[str, str] = field(default_factory=dict)
    corrections: frozenset[str] = frozenset()
    sampler: str = "local"
    pauses: bool = False
    reads_policy: str = ""
    refresh: int | None = None
    processes: int = 1
    rewards: int = 1
    gpus: int | None = None
    cores: int | None = None
    heads: tuple[int, int] = (0, 0)
    paths: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    def refuse(self, name: str, value: Any, problem: str, fix: str) -> NoReturn:
        """Raises UserError with the field's full name."""
        raise UserError(f"{self.where}cluster.{name}", value, problem, fix)


def check_cluster(spec: ClusterSpec, facts: Facts) -> None:
    """Raises UserError where a cluster cannot run what is asked for. Loads nothing and asks no cluster."""
    for name, role in spec.roles().items():
        shown = role.model_dump(by_alias=True, exclude_defaults=True)
        if shown and name in facts.missing:
            facts.refuse(name, shown, f"has no effect: {facts.missing[name]}", "leave it out")
        # Who writes `here` beside them has switched a place off.
        if shown and name != "learner" and "place" not in role.model_fields_set:
            problem = "has no effect: the role stays in the learner's own processes"
            facts.refuse(name, shown, problem, "add place: apart, or leave it out")
        if role.place == "beside" and name != "rollout":
            problem = "is for rollouts: no other role takes turns with the learner"
            facts.refuse(f"{name}.place", "beside", problem, "use apart, or here, on the learner's own GPUs")
        if isinstance(role, Copies) and role.place == "apart" and role.workers < spec.learner.workers:
            problem = f"are fewer than the {spec.learner.workers} processes of the learner: each asks its own"
            facts.refuse(f"{name}.copies", role.workers, problem, f"use at least {spec.learner.workers}")
        if name in ("reference", "teacher") and (role.gpus or 0) > 1:
            problem = "are more than a copy uses: it keeps the whole model on one GPU"
            facts.refuse(f"{name}.gpus", role.gpus, problem, "leave it out, and raise copies for speed")
    if facts.processes > 1:
        problem = f"has {spec.learner.workers} processes, and `processes` of the stage says {facts.processes}"
        facts.refuse("learner", "(both)", problem, "leave `processes` out; the cluster's learner says it")
    if spec.in_flight == "keep" and not facts.pauses:
        problem = f"needs a sampler that can pause, which {facts.sampler} cannot"
        facts.refuse("in_flight", "keep", problem, "set finish or auto, or use sampler.name: vllm")
    _check_gpus(spec, facts)
    _check_cores(spec, facts)
    _check_weights(spec, facts)
    if spec.lookahead:
        _check_lookahead(spec, facts)
    elif spec.correction == "anchored" and "rollout" not in facts.missing:
        problem = "has no effect: with lookahead 0 no answer is older than the weights that learn from it"
        facts.refuse("correction", "anchored", problem, "leave it out, or set lookahead: 1")
    _check_idle(spec, facts)
    if spec.address != "local":
        _check_paths(facts)


def _check_idle(spec: ClusterSpec, facts: Facts) -> None:
    """Keys of who works together, where no role is named that could work elsewhere."""
    if spec.roles().keys() & spec.model_fields_set:
        return
    for name, value in spec.model_dump(exclude_defaults=True, exclude={"address"}).items():
        problem = "has no effect: every role stays in the learner's own process"
        facts.refuse(name, value, problem, "leave it out, or place a role apart")


def _check_gpus(spec: ClusterSpec, facts: Facts) -> None:
    """Engines share a GPU with the learner, or have their own, and there are enough of them."""
    nodes, engines = spec.learner.nodes, spec.rollout.workers
    if spec.rollout.place == "beside" and facts.sampler == "vllm" and engines % nodes:
        problem = f"cannot lie evenly on the {nodes} machines of the learner, whose GPUs they share"
        facts.refuse("rollout.engines", engines, problem, f"use a multiple of {nodes}, or place: apart")
    gpus, (heads, keys) = spec.rollout.gpus or 1, facts.heads
    fits = [n for n in range(1, gpus + 1) if heads % n == 0 and (keys % n == 0 or n % keys == 0)]
    if spec.rollout.place != "here" and facts.sampler == "vllm" and keys and gpus not in fits:
        problem = f"cannot share {heads} attention heads, {keys} of them with keys, evenly, as vllm does"
        facts.refuse("rollout.gpus", gpus, problem, f"use {fits[-1]}")
    if facts.gpus is None:
        return
    if facts.gpus == 0 and spec.rollout.place == "beside" and facts.sampler == "vllm":
        problem = "needs a GPU for vllm to share, and there is none: an engine on a CPU cannot sleep"
        facts.refuse("rollout.place", "beside", problem, "use apart or here")
    own = min(facts.gpus, 1)
    wanted = {n: r.workers * (own if r.gpus is None else r.gpus) for n, r in spec.roles().items()}
    wanted["reward"] *= max(1, facts.rewards)
    apart = {n: k for n, k in wanted.items() if n == "learner" or spec.roles()[n].place == "apart"}
    if sum(apart.values()) > facts.gpus:
        wish = " + ".join(f"{k} {name}" for name, k in apart.items() if k)
        problem = f"wants {sum(apart.values())} GPUs ({wish}), and the cluster has {facts.gpus}"
        facts.refuse("address", spec.address, problem, "lower engines, copies, processes or gpus")
    if spec.rollout.place == "beside" and wanted["rollout"] > wanted["learner"]:
        problem = (
            f"takes {wanted['rollout']} GPUs, and the learner it shares them with has {wanted['learner']}"
        )
        facts.refuse("rollout", "beside", problem, "lower engines or gpus, or use place: apart")


def _check_cores(spec: ClusterSpec, facts: Facts) -> None:
    """A Ray of its own is this machine, and never grows; roles without a wish share its cores."""
    if facts.cores is None or spec.address != "local":
        return
    if spec.learner.nodes > 1:
        problem = "is more than this one machine, which is all that address: local has"
        facts.refuse(
            "learner.nodes", spec.learner.nodes, problem, "leave it out, or name a cluster's address"
        )
    moved = {n: r for n, r in spec.roles().items() if n == "learner" or r.place != "here"}
    for name, role in moved.items():
        if role.resources:
            problem = "are resources that a Ray of its own does not have"
            fix = "leave them out, or name a cluster's address"
            facts.refuse(f"{name}.resources", role.resources, problem, fix)
    _check_crowd(moved, facts, facts.cores)
    wanted = {n: r.workers * (r.cores or 1) for n, r in moved.items()}
    room = max(facts.cores, sum(r.workers for r in moved.values() if not r.cores))
    most = max((n for n, r in moved.items() if r.cores), key=lambda n: wanted[n], default="")
    if most and sum(wanted.values()) > room:
        problem = f"makes the roles want {sum(wanted.values())} cores, and this machine has {facts.cores}"
        facts.refuse(f"{most}.cores", moved[most].cores, problem, "lower it, or the number of workers")


def _check_crowd(moved: Mapping[str, RoleSpec], facts: Facts, cores: int) -> None:
    """Processes may share a core, but not any number of them; GPUs are counted elsewhere."""
    own = facts.gpus or 0
    crowd = {n: r.workers for n, r in moved.items() if not (own if r.gpus is None else r.gpus)}
    if "reward" in crowd:
        crowd["reward"] *= max(1, facts.rewards)
    if sum(crowd.values()) > CROWD * cores:
        name = max(crowd, key=lambda n: crowd[n])
        word = type(moved[name]).model_fields["workers"].alias
        problem = f"makes {sum(crowd.values())} processes in all, and this machine has {cores} cores"
        fix = f"use at most {CROWD} processes a core, or name a cluster's address"
        facts.refuse(f"{name}.{word}", moved[name].workers, problem, fix)


def _check_weights(spec: ClusterSpec, facts: Facts) -> None:
    """A way between GPUs needs engines that have some, at the right distance."""
    if spec.weights not in BETWEEN_GPUS:
        return
    place = BETWEEN_GPUS[spec.weights]
    if facts.sampler != "vllm" or spec.rollout.place != place:
        problem = (
            f"takes weights to vllm engines {place}; the rollouts are {facts.sampler}, {spec.rollout.place}"
        )
        facts.refuse("weights", spec.weights, problem, "leave it out, and auto finds a way")
    if facts.gpus == 0:
        facts.refuse(
            "weights", spec.weights, "goes between GPUs, and there is none", "use auto, object or file"
        )


def _check_lookahead(spec: ClusterSpec, facts: Facts) -> None:
    """Answers of older weights need another place, a correction, and nobody who reads the newest ones."""
    n = spec.lookahead
    if "rollout" in facts.missing:
        facts.refuse("lookahead", n, f"has no effect: {facts.missing['rollout']}", "leave it out")
    if spec.rollout.place != "apart":
        problem = f"needs rollouts apart: those {spec.rollout.place} wait for the learner"
        facts.refuse("lookahead", n, problem, "set rollout.place: apart, or lookahead: 0")
    if facts.reads_policy:
        problem = f"does not go with {facts.reads_policy}, which reads the policy as it is trained"
        facts.refuse("lookahead", n, problem, "set lookahead: 0")
    if facts.refresh is not None and facts.refresh < n:
        problem = (
            f"is above refresh_reference_every = {facts.refresh}: answers would be older than the reference"
        )
        facts.refuse("lookahead", n, problem, f"use at most {facts.refresh}, or refresh less often")
    if not facts.corrections:
        problem = "needs a method that corrects for answers of older weights, and this one does not"
        facts.refuse(
            "lookahead", n, problem, "set lookahead: 0, or use a policy gradient such as grpo or ppo"
        )
    if spec.correction not in facts.corrections:
        problem = "needs a method with a ratio to the policy that sampled, and this one has none"
        facts.refuse("correction", spec.correction, problem, f"set {min(facts.corrections)}, or lookahead: 0")


def _check_paths(facts: Facts) -> None:
    """A folder that counts from here means another one on another machine."""
    for name, path in facts.paths.items():
        if not path.startswith("/"):
            problem = "is relative, and means another place on the machines of a cluster"
            raise UserError(
                name, path, problem, "give an absolute path on a file system that all of them share"
            )
