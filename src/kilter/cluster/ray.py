"""Ray as Kilter needs it: actors that hold workers, their places, and its client of jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray

from kilter.cluster.backend import HOST, JOIN, LOST, Factory, Report, raised
from kilter.cluster.held import Held, Hello
from kilter.errors import UserError
from kilter.launch import room, started
from kilter.launch.spec import ClusterSpec
from kilter.launch.versions import require_same, versions
from kilter.progress import doing
from kilter.runtime import Guard, in_groups_of_their_own, keeping, kill_users_of

UNAVAILABLE = 30.0
"""Seconds for which Ray may not reach a worker before it counts as lost: a node that falls out takes 19."""

REPLACEMENT = 20.0
"""Seconds that a lost worker's successor waits for its place, while the others go on."""

LOOK = 10.0
"""Seconds between two lines that say what is waited for."""

SEES_ALL = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
"""Lets an actor see GPUs that are not its own."""

BESIDE = "beside"
"""The lane of calls that wait for no other."""

SPACE = "kilter"
"""Where actors that others look for have their names."""


@dataclass(frozen=True)
class Made:
    """An actor and its place."""

    role: str
    number: int
    actor: Any
    place: Any


class Owner:
    """Reserves places and starts actors. They end when the process ends that it is in."""

    def __init__(self) -> None:
        self.made: list[Made] = []

    def reserve(self, bundles: Sequence[Mapping[str, float]], strategy: str) -> Any:
        """A placement group, which may still have to wait for its place."""
        name = f"{ray.get_runtime_context().get_actor_name()} {uuid.uuid4().hex}"
        return ray.util.placement_group([dict(bundle) for bundle in bundles], strategy, name)

    def begin(self, role: str, number: int, place: Any, options: Mapping[str, Any]) -> Made:
        """An actor that holds nothing yet."""
        kind = ray.remote(concurrency_groups={BESIDE: 1})(Actor)
        self.made.append(Made(role, number, kind.options(**options).remote(role, number), place))
        return self.made[-1]

    def all(self) -> list[Made]:
        """What was started here, whether it is still there or not."""
        return self.made


class Actor(Held):
    """A worker's object in a process of Ray. One that holds a rank owns the rank's workers."""

    def __init__(self, role: str, number: int) -> None:
        super().__init__(
            role, number, ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        )
        self.owner = Owner()

    def own(self, method: str, arguments: Sequence[Any]) -> Any:
        """A call of its owner."""
        return getattr(self.owner, method)(*arguments)


@dataclass(frozen=True)
class Shared:
    """A value in Ray's object store. Called, it is read: on the node that holds it nothing is copied."""

    reference: Any

    def __call__(self) -> Any:
        return ray.get(self.reference)


@dataclass(eq=False)
class RayCall:
    """A call under way. again: sends it once more."""

    handle: RayHandle
    again: Callable[[], Any]
    reference: Any
    found: Report | None = None

    def done(self) -> bool:
        """Whether Ray has its answer, or knows that none will come."""
        if self.found is None and ray.wait([self.reference], timeout=0)[0]:
            self.handle.take(self)
        return self.found is not None

    def report(self) -> Report:
        """How it ended; LOST where the actor is gone."""
        assert self.found is not None, "the call is still under way"
        return self.found


@dataclass(eq=False)
class RayHandle:
    """One actor.

    Args:
        actor: Ray's handle.
        place: its placement group.
        hello: what it said of itself.
        name: by which other processes find it.
        sent: calls under way, in their order.
        since: when Ray last ceased to reach it, None while it does.
    """

    actor: Any
    place: Any
    hello: Hello
    name: str = ""
    sent: list[RayCall] = field(default_factory=list)
    since: float | None = None

    def __post_init__(self) -> None:
        self.where, self.log, self.address = self.hello.where, self.hello.log, self.hello.address

    def call(self, method: str, *arguments: Any) -> RayCall:
        """Sends a call behind the earlier ones."""
        again = partial(self.actor.call.remote, method, arguments)
        self.sent.append(RayCall(self, again, again()))
        return self.sent[-1]

    def control(self, method: str, *arguments: Any) -> RayCall:
        """Sends a call past the others. It is not sent again."""
        lane = self.actor.control.options(concurrency_group=BESIDE)
        return RayCall(self, lambda: None, lane.remote(method, arguments))

    def take(self, call: RayCall) -> None:
        """Reads an answer, or sends again what a worker may not have got.

        Raises nothing: errors are in the report.
        """
        try:
            call.found, self.since = ray.get(call.reference), None
        except ray.exceptions.ActorUnavailableError:
            self.since = self.since or time.monotonic()
            if call not in self.sent:
                call.found = Report(kind="unavailable", where=self.where)
            elif time.monotonic() - self.since > UNAVAILABLE:
                call.found = self._lost(f"it could not be reached for {UNAVAILABLE:g} s")
            else:
                # All that comes behind it goes again too: its order is what makes weights and answers agree.
                time.sleep(0.2)
                for later in self.sent[self.sent.index(call) :]:
                    later.reference, later.found = later.again(), None
        except ray.exceptions.RayError as error:
            call.found = self._lost(_cause(error))
        if call.found is not None and call in self.sent:
            self.sent.remove(call)

    def _lost(self, cause: str) -> Report:
        return Report(kind=LOST, arguments=(cause,), where=self.where)

    def kill(self) -> None:
        """Ends the actor's process; a stopped one does not hear Ray, and is ended by the system."""
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self.actor, no_restart=True)
        if self.hello.node == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.hello.process, signal.SIGKILL)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.util.remove_placement_group(self.place)
            # What a host has reserved for its rank outlives it, for as long as the launcher lives.
            for found in ray.util.placement_group_table().values() if self.name else ():
                if found["name"].startswith(self.name) and found["state"] != "REMOVED":
                    ray.util.remove_placement_group(ray.util.get_placement_group(found["name"]))


def _cause(error: BaseException) -> str:
    """Ray's reason in a few words: its own text is a page."""
    text = str(error)
    if "node" in text and ("dead" in text or "died" in text) and "worker process has died" not in text:
        return "its node is gone"
    if isinstance(error, ray.exceptions.ActorDiedError):
        return "its process ended (it was killed, or it crashed; often out of memory)"
    return f"{type(error).__name__}: {text.strip().splitlines()[0]}"


class RayBackend:
    """Connects to Ray, or starts one of its own on this machine.

    Args:
        spec: where the roles run.
        say: takes a line about what is waited for.
    """

    def __init__(
        self, spec: ClusterSpec, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
    ) -> None:
        self.spec, self.say = spec, say
        self.handles: list[RayHandle] = []
        self._owner, self._free = Owner(), list[Made]()
        self._begun: set[tuple[str, int]] = set()
        self._ranks: Any = None
        self._guard: Guard | None = None
        self._own = not ray.is_initialized()
        if self._own:
            with keeping(signal.SIGTERM):  # Ray would answer it with a trace of its own and an abort
                self._connect(os.environ.get(JOIN) or started.address(spec.address))
        self.address = str(ray.get_runtime_context().gcs_address)
        self.host = str(ray.util.get_node_ip_address())
        # The actor that a rank runs in, and its workers, outlive the rank.
        named = os.environ.get(HOST, "")
        self._host = ray.get_actor(named, SPACE) if named else None
        if self._host is not None:
            self._free = self._owned("all")

    def _owned(self, method: str, *arguments: Any) -> Any:
        """What the owner of this process's workers answers."""
        if self._host is None:
            return getattr(self._owner, method)(*arguments)
        return ray.get(self._host.own.remote(method, arguments))

    def _connect(self, address: str) -> None:
        # Nothing is reported to Ray's makers; workers print to files of their nodes.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray would let everybody else on the machine go first.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Ray frees what nobody holds once a second. Weights of a second may be several copies.
        os.environ.setdefault("RAY_free_objects_batch_size", "1")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray._private.worker._worker_logs_enabled = False
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            # Roles without a wish share the cores, as the processes of a machine do.
            elsewhere = [r for n, r in self.spec.roles().items() if r.place != "here" or n == "learner"]
            cores = max(os.cpu_count() or 1, sum(r.workers for r in elsewhere if not r.cores))
            with in_groups_of_their_own(ray._private.services, "ConsolePopen"):
                ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
            # A killed driver takes most of them with it. Ray's agents outlive it by a minute: they tell of it
            # to one that is dead. Each has a log open in the folder of its Ray.
            self._guard = Guard(kill_users_of(ray._private.worker._global_node.get_session_dir_path()))
            return
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                "cluster.address",
                self.spec.address,
                f"leads to no Ray ({reason})",
                "start it with `ray start --head`, or use address: local",
            ) from error

    def start(
        self,
        role: str,
        numbers: Sequence[int],
        make: Factory,
        arguments: Mapping[str, Any],
        at_once: int = 1,
        anew: bool = False,
    ) -> list[RayHandle]:
        """Starts actors that hold what `make` makes, when their places are free, or takes some over."""
        # All begin before one is waited for.
        begun = [self._left(role, n, anew) or self._fresh(role, n, at_once) for n in numbers]
        handles = [one if isinstance(one, RayHandle) else one() for one in begun]
        self.handles += handles
        for handle in handles:
            require_same(versions(), handle.hello.versions, handle.hello.address)
            handle.actor.build.remote(pickle.dumps((make, dict(arguments))))
        return handles

    def _left(self, role: str, number: int, anew: bool) -> RayHandle | None:
        """A worker that an earlier learner has left, and that is alive."""
        for made in [m for m in self._free if (m.role, m.number) == (role, number)]:
            self._free.remove(made)
            with contextlib.suppress(ray.exceptions.RayError):
                lane = made.actor.hello.options(concurrency_group=BESIDE)
                handle = RayHandle(made.actor, made.place, ray.get(lane.remote(), timeout=REPLACEMENT))
                if not anew:
                    return handle
                handle.kill()
            # One that was killed when nobody looked still has its place.
            ray.util.remove_placement_group(made.place)
        return None

    def _fresh(self, role: str, number: int, at_once: int) -> Callable[[], RayHandle]:
        # A successor must not hold up those who go on.
        seconds, wanted, ranks = self.spec.wait_for_resources, self._wanted(role), self.spec.learner
        seconds = min(seconds, REPLACEMENT if (role, number) in self._begun else seconds)
        self._begun.add((role, number))
        if role == "learner":
            # The ranks of a group share one: as many on each machine. The first of them finds it.
            each = ranks.workers // ranks.nodes
            if number == 0:
                bundle = {name: value * each for name, value in wanted.items()}
                self._ranks = self._placed(role, bundle, seconds, ranks.nodes)
            place, part = self._ranks, number // each
        else:
            place, part = self._placed(role, wanted, seconds), 0

        # It says who it is before it loads anything.
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(place, part)
        others = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU")}
        name = f"{role}-{number}-{uuid.uuid4().hex}" if role == "learner" else ""
        options = {
            "num_cpus": wanted.get("CPU", 0),
            "num_gpus": wanted.get("GPU", 0),
            "resources": others,
            "scheduling_strategy": strategy,
            "max_concurrency": at_once,
            "runtime_env": {"env_vars": SEES_ALL} if self.spec.roles()[role].place == "beside" else None,
        } | ({"name": name, "namespace": SPACE} if name else {})
        actor = self._owned("begin", role, number, place, options).actor
        hello = actor.hello.remote()

        def greeted() -> RayHandle:
            try:
                with doing(f"starting the process of {role} {number}"):
                    return RayHandle(actor, place, ray.get(hello, timeout=max(60.0, self.spec.stall)), name)
            except ray.exceptions.RayError as error:
                ray.util.remove_placement_group(place)
                lost = Report(kind=LOST, arguments=(_cause(error),), where=f"{role} {number}")
                raise raised(lost) from error

        return greeted

    def _wanted(self, role: str) -> dict[str, float]:
        """What one worker of a role takes."""
        asked = self.spec.roles()[role]
        gpus = min(1, int(ray.cluster_resources().get("GPU", 0))) if asked.gpus is None else asked.gpus
        # Who is beside the learner shares its GPUs, which Ray has given to nobody, and lies on its machine.
        near, gpus = ({f"node:{self.host}": 0.001}, 0) if asked.place == "beside" else ({}, gpus)
        return {"CPU": asked.cores or 1} | ({"GPU": gpus} if gpus else {}) | near | asked.resources

    def _placed(self, role: str, wanted: Mapping[str, float], seconds: float, nodes: int = 1) -> Any:
        """A placement group, one bundle on each of so many machines. While it waits it says what is missing.

        Raises:
            UserError: the time is over, or no node of this process's own Ray is large enough.
        """
        strategy = "STRICT_SPREAD" if nodes > 1 else "PACK"
        group, end = self._owned("reserve", [dict(wanted)] * nodes, strategy), time.monotonic() + seconds
        who = "each worker" if role != "learner" else "each machine"
        # An own Ray does not grow.
        own = self._own and self.spec.address == "local" and JOIN not in os.environ
        hopeless = own and not room.fits(_nodes(), wanted, nodes)
        while not group.wait(0.01 if hopeless else max(0.01, min(LOOK, end - time.monotonic()))):
            missing = f"{who} wants {room.amounts(wanted)}; {room.free(_nodes(), wanted)}"
            if hopeless or time.monotonic() >= end:
                ray.util.remove_placement_group(group)
                raise UserError(
                    f"cluster.{role}",
                    "(given)",
                    f"finds no place: {missing}",
                    "ask for less, add machines, or raise cluster.wait_for_resources",
                )
            self.say(f"waiting for {role}: {missing}")
        return group

    def share(self, value: Any) -> Shared:
        """Puts it into Ray's object store."""
        return Shared(ray.put(value))

    def wait(self, calls: Sequence[Any], seconds: float) -> None:
        """Until one of them is done."""
        ray.wait([call.reference for call in calls], timeout=seconds)

    def now(self) -> float:
        """The machine's clock."""
        return time.monotonic()

    def release(self) -> None:
        """The next learner of the run may take the workers over. Those of a rank wait with its host."""
        self._free = list(self._owner.made)

    def close(self) -> None:
        """Ends the workers (those of a rank end with its host), and Ray itself where it was started here."""
        for handle in self.handles if self._host is None else ():
            handle.kill()
        # Where a place did not come, others had begun and were never asked who they are.
        for made in self._owner.made:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(made.actor)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.util.remove_placement_group(made.place)
        if self._own:
            ray.shutdown()
        if self._guard is not None:
            self._guard.dismiss()


def _nodes() -> list[room.Node]:
    left = ray._private.state.available_resources_per_node()
    return [
        room.Node(node["NodeManagerAddress"], node["Resources"], left.get(node["NodeID"], {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def job_client(address: str) -> Any:
    """Ray's client of jobs at http://HEAD:8265. Raises UserError."""
    from ray.job_submission import JobSubmissionClient

    # It tells of every upload and closed socket.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        said = str(error).strip().splitlines()[0][:160]
        raise UserError(
            "--address",
            address,
            f"has no Ray that takes jobs ({said})",
            "give the dashboard's address, http://HEAD:8265. Both sides need: pip install 'kilter[cluster]'",
        ) from error
