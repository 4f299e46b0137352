"""What a training on a cluster takes, by arithmetic: places, memory, bytes and seconds of a step.

A step learns from D tokens with a model of P parameters on n GPUs, in m micro-batches of each GPU.
Weights, gradients and moments are divided over s GPUs, and there are n / s replicas of them.

    learning    2 P D (3 passes + further forwards) / (n FLOPS)      3: forward, and twice that backward
    gathers     (s - 1) / s (2 m g P + 4 P) bytes of each GPU        g bytes a weight; gradients in float32
    replicas    2 (r - 1) / r * 4 P / s bytes of each GPU            r = n / s
    answers     tokens of the longest * TOKEN, or all tokens * TOKEN / slots, whichever is longer
    a step      in turn: the sum; k batches ahead: max(learning, answers, (longest + learning) / (k + 1))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kilter.launch.spec import ClusterSpec
from kilter.models.sizes import Sizes

FLOPS = 0.4 * 989e12
"""Operations a second: 40 % of an H100's dense bfloat16 peak (NVIDIA's data sheet), a usual utilisation."""
BETWEEN, WITHIN = 40e9, 250e9
"""Bytes a second of a GPU: 400 Gb/s between nodes at 80 %, NVLink in a node as collectives reach it."""
STATE = 16
"""Bytes of a trained parameter: float32 weight, gradient and two Adam moments."""
FROZEN = 4
"""Bytes of a frozen parameter, which is opened in float32."""
LIBRARIES = 1.5e9
"""Bytes of a process on a GPU: its context (0.6e9), the head's chunks of logits (0.5e9), fragments."""
ROOT = 8.25e9
"""Bytes a second of one rank that broadcasts to all engines, as verl measured it."""
SECONDS_PER_BYTE = {"file": 1.83e-9, "object": 0.5e-9, "gloo": 0.53e-9, "nccl": 1 / ROOT, "ipc": 1 / WITHIN}
"""Of new weights. Measured on 2 cores: file, object (538 MB both ways), gloo between network namespaces."""
TO_A_NODE = 2.23e-9
"""Of what Ray's object store copies to another node, once to each (538 MB in 1.2 s, between namespaces)."""
TOKEN, SLOTS = 0.02, 256
"""Seconds of a token in a slot, whatever the load, and slots of an engine (vLLM's default max_num_seqs)."""
ROLLOUT = 9
"""Bytes of a sampled token on the wire: id, log-prob, and a share of version spans and masks."""
AHEAD = range(5)
"""Lookaheads whose step time is predicted."""

Refusal = tuple[str, str, str]
"""Field, problem and fix."""


@dataclass(frozen=True)
class Machines:
    """GPUs of the cluster, None where nobody says; those of a node; bytes of each."""

    gpus: int | None = None
    per_node: int = 8
    memory: float = 80e9


@dataclass(frozen=True)
class Work:
    """What a step computes. Lengths are in tokens; models are of the policy's size, but for a teacher.

    Args:
        size: of the policy.
        roles: those that the method has.
        trained: models that train in the learner: the policy, and the critic where it is here.
        frozen: models of each role that do not, such as {"reward": 2}.
        forwards: forward passes of the learner beside its training. whole: those of models that each GPU
            holds whole, which gathers nothing.
        passes: over a batch.
        prompts: of a step. samples: answers of each; 0 where nothing is sampled.
        prompt, answer, longest: mean of a prompt, mean of an answer, and the limit of an answer.
        adapter: parameters that train; 0: all.
        shard: GPUs that share weights, gradients and moments; 1: every one has them all.
        gather: bytes of a gathered weight, and of one in an engine.
        microbatch: tokens. activations: bytes of one.
        pauses: whether the sampler can hold its answers.
        bears: batches that the method may be ahead.
        engine: whether the sampler takes whole weights, as vLLM does; others take what trains, in float32.
        share: of a GPU's memory that an engine beside the learner takes, whatever it holds.
        teacher: sizes of the teacher; None: the policy's.
        opened: trained models that a GPU holds whole at once, before they are sharded.
        rests: whether they are sharded before any other model is opened.
        scores: models of the role reward that score every step; those of the gold source do not.
        values: forwards of a critic apart beside those of its training.
    """

    size: Sizes
    roles: frozenset[str] = frozenset({"learner"})
    trained: int = 1
    frozen: Mapping[str, int] = field(default_factory=dict)
    forwards: float = 0
    whole: float = 0
    passes: int = 1
    prompts: int = 1
    samples: int = 0
    prompt: float = 0
    answer: float = 0
    longest: float = 0
    adapter: int = 0
    shard: int = 1
    gather: int = 2
    microbatch: int = 1024
    activations: float = 0
    pauses: bool = True
    bears: int = 0
    engine: bool = True
    share: float = 0
    teacher: Sizes | None = None
    opened: int = 0
    rests: bool = False
    scores: int = 0
    values: int = 0

    def one(self, role: str) -> Sizes:
        """Sizes of one model of a role."""
        return self.teacher or self.size if role == "teacher" else self.size

    @property
    def tokens(self) -> float:
        """Tokens that go through the model, each prompt once."""
        return self.prompts * (self.prompt + max(1, self.samples) * self.answer)


@dataclass(frozen=True)
class Plan:
    """What a stage takes.

    Args:
        roles: place, workers, and GPUs of each worker; 0 where it shares the learner's.
        memory: bytes of a GPU by what takes them, at each peak.
        traffic: bytes and seconds of a step by kind, of each GPU or in all to the engines.
        seconds: of the parts of a step. steps: of a whole one by lookahead.
        advice: the lookahead that pays, and why.
        refused: what cannot be placed.
    """

    roles: dict[str, tuple[str, int, int]]
    memory: dict[str, dict[str, float]]
    traffic: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    steps: dict[int, float]
    advice: int
    why: str
    refused: list[Refusal]


def learning(parameters: float, tokens: float, gpus: int, passes: float) -> float:
    """Seconds of `passes` forward passes, a backward counting as two."""
    return 2 * parameters * tokens * passes / (gpus * FLOPS)


def gathers(parameters: float, micro: int, width: int, shard: int, trained: float | None = None) -> float:
    """Bytes of each GPU: weights twice for every micro-batch, gradients once."""
    return (shard - 1) / shard * (2 * micro * width * parameters + 4 * (trained or parameters))


def replicas(parameters: float, shard: int, count: int) -> float:
    """Bytes of each GPU for the sum of gradients over `count` replicas of `shard` GPUs."""
    return 2 * (count - 1) / count * 4 * parameters / shard


def ahead(k: int, learn: float, busy: float, longest: float, keep: bool, pause: float = 0) -> float:
    """Seconds of a step, k batches ahead.

    Args:
        k: batches that may begin before their weights are known.
        learn: seconds of learning, the new weights' way to the engines included.
        busy: seconds in which all slots together write a batch.
        longest: seconds of the longest answer.
        keep: whether answers go on after an update; else all of them end first.
        pause: seconds of an update.
    """
    # Up to a full house the longest answer decides; behind it the others have gone on in its shadow.
    sampling = max(longest, busy)
    if k == 0:
        return learn + sampling
    # Batch m begins when batch m - k - 1 has been learned: k + 1 batches share one way round.
    step = max(learn, busy, (sampling + learn) / (k + 1))
    return step if keep else max(step, sampling + pause)


def make(spec: ClusterSpec, work: Work, machines: Machines) -> Plan:
    """The plan of a train stage."""
    ranks, share = spec.learner.workers, min(work.shard, spec.learner.workers)
    traffic, learn = learner(work, ranks, share, machines.per_node)
    seconds = {"learning": learn} | others(spec, work, learn, machines)
    learn = sum(seconds.values())
    steps, advice, why = {0: learn}, 0, ""
    apart, here = spec.rollout.place == "apart", answers_here(spec, work)

    # Answers, and the way of the weights to those who write them.
    if work.samples:
        answers = work.prompts * work.samples
        tokens, longest = answers * work.answer, work.longest * TOKEN
        busy = tokens * TOKEN / SLOTS / (ranks if here else spec.rollout.workers)
        whole = work.size.parameters
        sent = 0 if here else work.gather * whole if work.engine else FROZEN * (work.adapter or whole)
        copies, one, pause = publication(spec, sent, share, machines)
        traffic |= {
            "weights to each engine": (sent, one),
            "weights to all engines": (copies * sent, pause),
            "rollouts": (ROLLOUT * tokens, ROLLOUT * tokens / BETWEEN),
        }
        seconds |= {"sampling": max(busy, longest), "weights": pause}
        keep = spec.keeps(work.pauses)
        steps = {k: ahead(k, learn + pause, busy, longest, keep, pause) for k in (AHEAD if apart else (0,))}
        spans = math.ceil(longest / max(learn + pause, busy))
        advice = min(spans, work.bears) if apart else 0
        why = f"the longest answer spans {spans} of the learner's steps, and the method bears {work.bears}"

    if "teacher" in work.frozen and spec.teacher.place == "apart":
        traffic["teacher's states"] = states(spec, work, machines)
    memory = peaks(spec, work, share, machines.memory)
    roles: dict[str, tuple[str, int, int]] = {}
    for name, role in spec.roles().items():
        own = name == "learner" or role.place == "apart"
        # Each model of a role has copies of its own.
        models = work.frozen.get(name, 1) if role.place == "apart" else 1
        if name in work.roles:
            gpus = (1 if role.gpus is None else role.gpus) if own else 0
            roles[name] = (role.place, models * role.workers, gpus)
    return Plan(roles, memory, traffic, seconds, steps, advice, why, refusals(spec, work, memory, machines))


def others(spec: ClusterSpec, work: Work, learn: float, machines: Machines) -> dict[str, float]:
    """Seconds in which the learner waits for models apart: a worker of one model has one GPU.

    It asks the reference before it learns. A teacher reads the next micro-batches meanwhile. The models that
    score read side by side, once an engine has written. A critic gives values before each pass, and learns
    behind it.
    """
    found: dict[str, float] = {}
    if work.scores and spec.reward.place == "apart":
        found["reward"] = learning(work.size.parameters, work.tokens, spec.reward.workers, 1)
    if "reference" in work.roles and spec.reference.place == "apart" and work.samples:
        found["reference"] = learning(work.size.parameters, work.tokens, spec.reference.workers, 1)
    if "critic" in work.roles and spec.critic.place == "apart":
        forwards = work.values + work.passes * (1 + (2 if work.adapter else 3))
        found["critic"] = learning(work.size.parameters, work.tokens, spec.critic.workers, forwards)
    if "teacher" in work.frozen and spec.teacher.place == "apart":
        teacher, workers = work.one("teacher").parameters, spec.teacher.workers
        reads = learning(teacher, work.tokens, workers, work.passes)
        found["waiting for the teacher"] = max(0.0, reads - learn, states(spec, work, machines)[1] - learn)
    return {what: seconds for what, seconds in found.items() if seconds}


def states(spec: ClusterSpec, work: Work, machines: Machines) -> tuple[float, float]:
    """Bytes and seconds of what predicts every trained token. Nodes take theirs from Ray's store."""
    tokens = work.passes * work.prompts * max(1, work.samples) * work.answer
    moved = tokens * work.gather * work.one("teacher").hidden
    if nodes(spec, machines) > 1:
        return moved, moved * TO_A_NODE / spec.learner.nodes
    return moved, moved * SECONDS_PER_BYTE["object"] / spec.learner.workers


def answers_here(spec: ClusterSpec, work: Work) -> bool:
    """Whether the learner's own weights answer: beside it, all but engines share them."""
    return spec.rollout.place == "here" or (spec.rollout.place == "beside" and not work.engine)


def travels(spec: ClusterSpec, machines: Machines) -> str:
    """How new weights reach the engines: what `auto` becomes on one machine, and on several."""
    if spec.rollout.place != "apart":
        return "ipc"
    if spec.weights != "auto":
        return spec.weights
    return "object" if nodes(spec, machines) == 1 else "gloo"


def nodes(spec: ClusterSpec, machines: Machines) -> int:
    """Nodes that the learner and the roles apart fill."""
    apart = [r for name, r in spec.roles().items() if name == "learner" or r.place == "apart"]
    wanted = sum(r.workers * (1 if r.gpus is None else r.gpus) for r in apart)
    return 1 if spec.address == "local" else max(1, math.ceil(wanted / machines.per_node))


def publication(spec: ClusterSpec, sent: float, share: int, machines: Machines) -> tuple[int, float, float]:
    """How often whole weights are taken, the seconds of one taking, and those of all.

    Each rank of the learner serves the engines that are its own: by gloo each reads over the rank's network,
    and through Ray's store each of their nodes gets a copy. What lies on the engine's own machine is read by
    all at once, and a broadcast reaches all at once. vLLM's own ways bring the whole to every GPU.
    """
    way, rollout = travels(spec, machines), spec.rollout
    own, gpus = math.ceil(rollout.workers / spec.learner.workers), rollout.gpus or 1
    if way == "ipc":
        seconds = sent / speed(share, machines.per_node)
        return rollout.workers * gpus, seconds, seconds
    far = way == "object" and nodes(spec, machines) > 1
    one = sent * (TO_A_NODE if far else SECONDS_PER_BYTE[way])
    hosts = math.ceil(rollout.workers * gpus / machines.per_node)
    turns = own if way == "gloo" else min(own, hosts) if far else 1
    return rollout.workers * (gpus if way == "nccl" else 1), one, turns * one


def speed(gpus: int, per_node: int) -> float:
    """Bytes a second of each GPU in a group of so many."""
    return WITHIN if gpus <= per_node else BETWEEN


def learner(
    work: Work, ranks: int, share: int, per_node: int
) -> tuple[dict[str, tuple[float, float]], float]:
    """Bytes and seconds of each GPU by kind, and the seconds of learning: traffic hides under arithmetic."""
    parameters, trained = work.size.parameters, work.adapter or work.size.parameters
    micro, turns = math.ceil(work.tokens / ranks / work.microbatch), work.passes * work.trained
    # A frozen base has no gradient of its own, so that its backward is one forward's work.
    passes = (2 if work.adapter else 3) * turns + work.forwards
    own = work.forwards - work.whole
    moved = {
        "gathers": turns * gathers(parameters, micro, work.gather, share, trained),
        "gathers of further forwards": (share - 1) / share * own * micro * work.gather * parameters,
        "gradients of replicas": turns * replicas(trained, share, ranks // share),
    }
    fast, between = speed(share, per_node), speed(ranks, per_node)
    traffic = {k: (b, b / (between if k == "gradients of replicas" else fast)) for k, b in moved.items() if b}
    compute = learning(parameters, work.tokens, ranks, passes)
    return traffic, max(compute, sum(s for _, s in traffic.values()))


def peaks(spec: ClusterSpec, work: Work, share: int, card: float) -> dict[str, dict[str, float]]:
    """Bytes of a GPU by what takes them, at the peak of each role that has GPUs."""
    size, rollout = work.size, spec.rollout
    whole, roles = size.parameters, spec.roles()
    state = FROZEN * whole + (STATE - 4) * (work.adapter or whole)
    frozen = {name: n * FROZEN * work.one(name).parameters for name, n in work.frozen.items()}
    beside = sum(held for name, held in frozen.items() if roles[name].place != "apart")
    layers = 2 * work.gather * whole / size.layers if share > 1 else work.gather % 4 * whole
    common = {"frozen models": beside, "libraries": LIBRARIES}
    here = answers_here(spec, work)
    # Shards answer nobody: each process samples from a whole copy of its own.
    if work.samples and here and share > 1:
        common["copy to sample from"] = FROZEN * whole
    learns = {"weights, gradients, moments": work.trained * state / share, "gathered or cast weights": layers}
    # A teacher apart sends states; its head makes distributions of them here.
    if "teacher" in work.frozen and spec.teacher.place == "apart":
        teacher = work.one("teacher")
        learns["teacher's head"] = FROZEN * teacher.vocabulary * teacher.hidden
    found = {"learning": learns | {"activations": work.activations} | common}
    if share > 1 and work.opened:
        near = {"libraries": LIBRARIES} if work.rests else common
        found["opening"] = {"whole weights, not yet sharded": work.opened * FROZEN * whole} | near

    # An engine that shares the GPU sleeps while the learner works, whose moments then wait in host memory.
    if work.samples:
        gpus = rollout.gpus or 1
        flying = min(SLOTS, work.prompts * work.samples / rollout.workers) * (work.prompt + work.answer)
        engine = {
            "engine's weights": 0.0 if here else (work.gather if work.engine else FROZEN) * whole / gpus,
            "engine's cache": 2 * size.kv * size.layers * flying / gpus,
        }
        # vLLM takes its share of the card, and makes a cache of what its weights leave.
        if rollout.place == "beside" and not here:
            engine["engine's cache"] = max(0.0, work.share * card - engine["engine's weights"])
        kept = {"learner's weights": work.trained * FROZEN * whole / share} | common
        found["sampling"] = engine | ({"libraries": LIBRARIES} if rollout.place == "apart" else kept)
    for name, held in frozen.items():
        if roles[name].place == "apart":
            found[name] = {"frozen models": held / work.frozen[name], "libraries": LIBRARIES}
    if spec.critic.place != "here" and "critic" in work.roles:
        # Its processes divide the weights where those of the learner do. Each opens all of them before that.
        parts = spec.critic.workers if share > 1 else 1
        if parts > 1:
            unsharded = {"whole weights, not yet sharded": FROZEN * whole}
            found["opening the critic"] = unsharded | {"libraries": LIBRARIES}
        found["critic"] = {"weights, gradients, moments": state / parts} | {
            "activations": work.activations,
            "libraries": LIBRARIES,
        }
    return found


def remedies(spec: ClusterSpec, work: Work, peak: str) -> tuple[str, str]:
    """The role that a peak belongs to, and what makes it smaller that is not so already."""
    roles, rollout = spec.roles(), spec.rollout
    trained = {"critic"} & work.roles if spec.critic.place == "here" else set()
    near = sorted(trained | {name for name in work.frozen if roles[name].place != "apart"})
    if peak == "opening":
        ways = ["train all weights" if work.adapter else "", "use a smaller model"]
        move = sorted(trained) if work.rests else [*near, *(["rollout"] if rollout.place == "here" else [])]
        return "learner", any_of([f"set place: apart for {' and '.join(move)}" if move else "", *ways])
    if peak == "opening the critic":
        return "critic", "use a smaller model there"
    if peak == "learning":
        ways = [
            "raise learner.processes" + (" with fsdp: true" if work.shard == 1 else ""),
            "" if work.adapter else "train an adapter",
            f"set place: apart for {' and '.join(near)}" if near else "",
        ]
        return "learner", any_of(ways)
    if peak == "sampling":
        # Beside, an engine takes its share whatever its weights are.
        less = {"apart": "raise rollout.gpus", "beside": "lower sampler.memory" if work.engine else ""}
        return "rollout", any_of(
            [less.get(rollout.place, ""), "" if rollout.place == "apart" else "place it apart"]
        )
    # A critic apart trains as the learner does; the others keep a whole model, and nothing else that counts.
    critic = "raise critic.processes with fsdp: true, or train an adapter"
    return peak, critic if peak == "critic" else "use a smaller model there"


def any_of(ways: Sequence[str]) -> str:
    """Those that there are, as a sentence offers them."""
    *first, last = [way for way in ways if way]
    return f"{', '.join(first)}, or {last}" if first else last


def refusals(
    spec: ClusterSpec, work: Work, memory: Mapping[str, Mapping[str, float]], machines: Machines
) -> list[Refusal]:
    """What cannot be placed, with what is wanted and what is free."""
    found: list[Refusal] = []
    for name, role in spec.roles().items():
        wanted = spec.learner.workers // spec.learner.nodes if name == "learner" else (role.gpus or 1)
        if name in work.roles and wanted > machines.per_node:
            problem = f"wants {wanted} GPUs of one node, where {machines.per_node} are free"
            found.append((name, problem, "raise learner.nodes" if name == "learner" else "lower gpus"))
    for peak, parts in memory.items():
        if (total := sum(parts.values())) > machines.memory:
            name, fix = remedies(spec, work, peak)
            most = max(parts, key=lambda part: parts[part])
            free = f"{machines.memory / 1e9:.1f} GB are free"
            problem = f"wants {total / 1e9:.1f} GB of a GPU for {peak}, where {free}"
            found.append((name, f"{problem} ({most}: {parts[most] / 1e9:.1f} GB)", fix))
    weights, room = memory.get("sampling", {}).get("engine's weights", 0), work.share * machines.memory
    if spec.rollout.place == "beside" and weights > room:
        gives = f"gives an engine {room / 1e9:.1f} GB of a GPU"
        problem = f"{gives}, and its weights take {weights / 1e9:.1f} GB"
        found.append(("rollout", problem, "raise rollout.gpus or sampler.memory, or place it apart"))
    return found
