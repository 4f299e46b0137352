"""The roles of one run that live elsewhere: their pools, over one backend."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from kilter.cluster.backend import Backend, Factory
from kilter.cluster.pool import Pool, Restarts, Tell
from kilter.cluster.weights import FileTransport, ObjectTransport, Package, Transport, WeightStream
from kilter.errors import UserError
from kilter.launch.jobs import bring_token
from kilter.launch.spec import ClusterSpec
from kilter.models.forward import Scorer
from kilter.progress import doing
from kilter.roles.open import OpenSpec
from kilter.sampling import vllm_transfer
from kilter.sampling.config import SamplerKind
from kilter.sampling.vllm_weights import MergedWeights
from kilter.screen import many
from kilter.seams import RawScores, Sampler
from kilter.training.apart.answers import Answerers, JudgeWorker
from kilter.training.apart.beside import BesideSampler, Moments
from kilter.training.apart.direct import DirectTransport
from kilter.training.apart.gloo import GlooTransport
from kilter.training.apart.reference import PooledReference, ReferenceWorker
from kilter.training.apart.rollouts import Gathered, PooledSampler, RolloutWorker
from kilter.training.apart.scores import PooledScores, ScoreWorker
from kilter.training.apart.shared import SharedSampler
from kilter.training.apart.teacher import PooledTeacher, TeacherWorker
from kilter.training.apart.vllm import AT_ONCE, VllmWorker
from kilter.training.parallel.teams import Team

Connect = Callable[[ClusterSpec], Backend]

REACHED = 10.0
"""Seconds in which a head answers at its port."""

FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""Settings of HTTP/2, none: a frame of kind 4."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FRAME
"""How HTTP/2 begins, which Ray speaks; the other side answers with its settings."""


def connect(spec: ClusterSpec) -> Backend:
    """The backend that the settings ask for. Nothing else imports ray.

    Raises:
        UserError: Ray is not installed, or its head is not there.
    """
    if spec.address not in ("local", "auto"):
        _reach(spec.address)
    if spec.address != "local":
        bring_token()
    try:
        from kilter.cluster.ray import RayBackend
    except ModuleNotFoundError as error:
        raise UserError(
            "cluster", "(given)", "needs Ray, which is not installed", "run: pip install 'kilter[cluster]'"
        ) from error

    return RayBackend(spec)


def _reach(address: str) -> None:
    """Raises UserError where no head listens. Ray would try for many minutes, and warn in its own words."""
    host, _, port = address.rpartition(":")
    secret = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    problem, fix = "leads to no Ray ({})", "start it with `ray start --head`, or use address: local"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACHED) as head:
            head.sendall(b"" if secret else GREETING)
            answer = b"" if secret else head.recv(9, socket.MSG_WAITALL)
    except OSError as error:
        raise UserError("cluster.address", address, problem.format(error), fix) from error
    if not secret and answer[3:4] != FRAME[3:4]:
        fix = f"give the port that `ray start --head` names, as in {host}:6379; 8265 is its dashboard's"
        raise UserError("cluster.address", address, problem.format("something else listens there"), fix)
    # What only looks like Ray is tried twice, where Ray would try 20 times, for up to a minute each.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """Opens pools by role, for one learner; the next one of the run may take their workers over.

    Args:
        spec: where the roles run.
        backend: starts their workers.
        folder: of the stage, for weights that travel as files.
        say: takes a line for people, before the run has its events.
        restarts: that the run has left; this learner and the next one share them.
        rank: of this process of the learner. It publishes to the workers that are its own, if any.
        world: processes of the learner.
        teams: the ranks that share one of so many engines with this one; every rank calls it.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        backend: Backend,
        folder: Path,
        say: Callable[[str], None],
        restarts: Restarts,
        rank: int = 0,
        world: int = 1,
        teams: Callable[[int], Team] = lambda count: Team(),
    ) -> None:
        self.spec, self.backend, self.folder = spec, backend, folder
        self.say, self.rank, self.world, self._teams = say, rank, world, teams
        self.tell: Callable[[str, str], None] = lambda what, detail: say(f"{what}: {detail}")
        self.note = self.tell
        self._restarts = restarts
        self.moments = Moments()
        self.ends = contextlib.ExitStack()
        self.ends.callback(backend.release)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ends.close()

    @cached_property
    def team(self) -> Team:
        """The ranks that share engines with this one. Of few ranks each has some engines of its own."""
        return self._teams(self.spec.rollout.workers)

    @property
    def kept(self) -> int:
        """Versions of the weights that a worker may still have to take: it may be a lookahead behind."""
        return self.spec.lookahead + 2

    def apart(self, role: str) -> bool:
        """Whether a role runs in workers of its own."""
        return self.spec.roles()[role].place == "apart"

    def samples(self, sampler: str) -> bool:
        """Whether the policy's answers come from workers. Beside, all but engines share its weights."""
        beside = self.spec.rollout.place == "beside" and sampler in ROLLOUTS
        return self.apart("rollout") or beside

    def pool(
        self,
        role: str,
        make: Factory,
        arguments: Mapping[str, Any],
        at_once: int = 1,
        restarts: Restarts | None = None,
        together: bool = False,
    ) -> Pool:
        """Starts the workers of a role that are this process's, maybe none; they load one after the other.

        Args:
            role: their name.
            make: makes the object that each of them holds.
            arguments: of `make`.
            at_once: calls that a worker does at the same time.
            restarts: of its own; None shares those of the run.
            together: whether they hold one state, and belong to this process alone.
        """
        workers = self.spec.roles()[role].workers
        first, step = (self.team.number, self.team.count) if role == "rollout" else (self.rank, self.world)
        size = workers if together else len(range(first, workers, step))
        if role == "rollout" and not self.team.leads:
            size = 0
        if self.rank == 0:
            self.say(f"{role}: {many(workers, 'workers')} of its own, loading")
        # Events come when the run has somewhere to put them. That somebody still loads is none.
        tell: Tell = lambda what, detail: (
            self.say(f"{what}: {detail}") if what == "loading" else self.tell(what, detail)
        )
        left = restarts or self._restarts
        return Pool(self.backend, role, size, make, arguments, self.spec.stall, left, tell, at_once, together)

    def rollouts(
        self,
        opening: OpenSpec,
        sampler: SamplerKind,
        dtype: str,
        policy: Scorer,
        trained: Gathered,
    ) -> Sampler:
        """A sampler over rollout workers, with the learner's present weights in them.

        Args:
            opening: the policy, as the learner opened it.
            sampler: the settings of each worker's own.
            dtype: of the products.
            policy: in training.
            trained: reads the trained tensors off it; every rank calls it.
        """
        role = ROLLOUTS.get(sampler.name, _local)(self, policy, dtype, trained)
        arguments = {"opening": opening, "sampler": sampler, "dtype": dtype, **role.arguments}
        pool = self.pool("rollout", role.make, arguments, role.at_once, role.restarts)
        # Engines start in minutes: no rank waits for another one's in the collectives of training.
        self._teams(1).gather(None)
        verify, ahead = self.spec.verify_weights, self.spec.lookahead
        with doing("the first weights on their way to the rollout workers"):
            transport = role.transport(pool) if role.transport is not None else self._transport(pool)
            note = lambda what, detail: self.note(what, detail)
            found: PooledSampler | BesideSampler
            found = PooledSampler(pool, transport, role.gathered, verify, ahead, note)
            if self.spec.rollout.place == "beside":
                found = BesideSampler(found, self.moments, lambda: self.team.gather(None))
            return found if self.team.size == 1 else SharedSampler(found, self.team)

    def scores(self, make: Callable[..., RawScores], arguments: Mapping[str, Any]) -> PooledScores:
        """A model that scores, in workers; what a source of feedback opens its model by."""
        return PooledScores(self.pool("reward", ScoreWorker, {"make": make, "arguments": arguments}))

    def judge(self, sampler: SamplerKind, opening: OpenSpec, where: str) -> Answerers:
        """A judge's sampler, in workers; what a judge opens its model by."""
        arguments = {"opening": opening, "sampler": sampler, "where": where}
        return Answerers(self.pool("reward", JudgeWorker, arguments))

    def reference(
        self, opening: OpenSpec, temperature: float, budget: int, gathered: Gathered
    ) -> PooledReference:
        """A reference policy in workers.

        Args:
            opening: the model, with adapters where the policy's base is the reference.
            temperature: of the rollouts.
            budget: tokens of a micro-batch.
            gathered: the policy's weights, for a reference that moves.
        """
        arguments = {"opening": opening, "temperature": temperature, "budget": budget}
        pool = self.pool("reference", ReferenceWorker, arguments)
        return PooledReference(pool, self._transport(pool), gathered)

    def teacher(self, opening: OpenSpec) -> PooledTeacher:
        """A teacher in workers."""
        return PooledTeacher(self.pool("teacher", TeacherWorker, {"opening": opening}))

    def _transport(self, pool: Pool) -> Transport:
        if not pool.size:
            return Nowhere()
        return TRANSPORTS[self.spec.weights](self, pool)


@dataclass(frozen=True)
class Rollout:
    """Who samples apart.

    Args:
        make: the worker.
        gathered: reads off the learner what the worker takes as weights.
        arguments: of the worker, beside those of all.
        at_once: calls that it does at the same time.
        transport: of its own; None follows the settings.
        restarts: of its own; None shares those of the run.
    """

    make: Factory
    gathered: Gathered
    arguments: Mapping[str, Any] = field(default_factory=dict)
    at_once: int = 1
    transport: Callable[[Pool], Transport] | None = None
    restarts: Restarts | None = None


def _local(cluster: Cluster, policy: Scorer, dtype: str, trained: Gathered) -> Rollout:
    """Workers that hold the learner's own model: they take what it trains."""
    return Rollout(RolloutWorker, trained)


def _vllm(cluster: Cluster, policy: Scorer, dtype: str, trained: Gathered) -> Rollout:
    """Engines that read plain weights of their own precision, and have no place for adapters."""
    spec, weights = cluster.spec, MergedWeights(policy.model, getattr(torch, dtype))
    beside, leads = spec.rollout.place == "beside", cluster.team.leads
    way, gpus = "ipc" if beside else spec.weights, spec.rollout.gpus or 1
    arguments: dict[str, Any] = {"keep": spec.keeps(True), "gpus": spec.rollout.gpus}
    if way not in vllm_transfer.WAYS:
        return Rollout(VllmWorker, lambda: weights.on_cpu(leads), arguments, AT_ONCE)

    # The engines take the tensors from the learner's GPUs: nobody else reads them. Each rank that leads meets
    # its own engines, and those that do not lead take part in gathering shards.
    def transport(pool: Pool) -> Transport:
        reach = vllm_transfer.Reach(pool.size, gpus, 0 if leads else 1, cluster.backend.host)
        return DirectTransport(pool, weights, way, reach, holds=not beside)

    arguments |= {"way": way, "sleeps": beside, "devices": _devices(cluster.team, gpus) if beside else ""}
    return Rollout(VllmWorker, dict, arguments, AT_ONCE, transport, Restarts(0))


def _devices(team: Team, count: int) -> str:
    """The first GPUs of a team, as CUDA_VISIBLE_DEVICES names them; "" where nobody restricts them."""
    mine, local = (
        os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
    # Of several that a rank sees it trains on one.
    own = mine if team.size == 1 else mine[local : local + 1] or mine[:1]
    return ",".join([gpu for part in team.gather(own) for gpu in part if gpu][:count])


ROLLOUTS: dict[str, Callable[[Cluster, Scorer, str, Gathered], Rollout]] = {"vllm": _vllm}
"""Samplers with workers of their own kind; all others run as they are in a worker."""


class Nowhere(Transport):
    """Of a rank without workers: nobody takes weights from it."""

    def send(self, weights: WeightStream) -> Package:
        """A package that nobody is told of."""
        return Package(weights.version, "nowhere", None, {}, 0)


def _file(cluster: Cluster, pool: Pool) -> Transport:
    role = pool.role if cluster.world == 1 else f"{pool.role}-{cluster.rank}"
    return FileTransport(cluster.folder / ".weights" / role, cluster.kept)


def _gloo(cluster: Cluster, pool: Pool) -> Transport:
    # Half of the stall, so that who waits in vain says so before the pool takes it for lost.
    made = GlooTransport(cluster.backend.host, cluster.spec.stall / 2, cluster.kept)
    return cluster.ends.enter_context(contextlib.closing(made))


def _auto(cluster: Cluster, pool: Pool) -> Transport:
    """One machine reads Ray's store without a copy; between machines gloo is the faster."""
    here = {slot.handle.address for slot in pool.slots} <= {cluster.backend.host}
    return ObjectTransport(cluster.backend) if here else _gloo(cluster, pool)


TRANSPORTS: dict[str, Callable[[Cluster, Pool], Transport]] = {
    "auto": _auto,
    "object": lambda cluster, pool: ObjectTransport(cluster.backend),
    "file": _file,
    "gloo": _gloo,
}
"""Ways for weights, by their names in `cluster.weights`."""
