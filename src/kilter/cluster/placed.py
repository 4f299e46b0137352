"""The roles of one run that live elsewhere: their pools, over one backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from kilter.cluster.backend import Backend, Factory
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.roles import JudgeWorker, RolloutWorker, ScoreWorker
from kilter.cluster.rollouts import Answerers, PooledSampler
from kilter.cluster.scores import PooledScores
from kilter.cluster.spec import ClusterSpec
from kilter.cluster.weights import FileTransport, ObjectTransport, Transport
from kilter.roles.open import OpenSpec
from kilter.sampling.config import SamplerKind
from kilter.seams import RawScores

Connect = Callable[[ClusterSpec], Backend]


def connect(spec: ClusterSpec) -> Backend:
    """The backend that the settings ask for. Nothing else imports ray."""
    from kilter.cluster.ray import RayBackend

    return RayBackend(spec)


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """Opens pools by role, and ends them all.

    Args:
        spec: where the roles run.
        backend: starts their workers.
        folder: of the stage, for weights that travel as files.
        say: takes a line for people, before the run has its events.
        sends: whether this process publishes weights.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        backend: Backend,
        folder: Path,
        say: Callable[[str], None],
        sends: bool = True,
    ) -> None:
        self.spec, self.backend, self.folder, self.sends = spec, backend, folder, sends
        self.tell: Callable[[str, str], None] = lambda what, detail: say(f"{what}: {detail}")
        self._restarts = Restarts(spec.restarts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.backend.close()

    def apart(self, role: str) -> bool:
        """Whether a role runs in workers of its own."""
        return self.spec.roles()[role].place == "apart"

    def pool(self, role: str, make: Factory, arguments: Mapping[str, Any]) -> Pool:
        """Starts the workers of a role, one after the other."""
        size = self.spec.roles()[role].workers
        # Events come when the run has somewhere to put them.
        tell = lambda what, detail: self.tell(what, detail)
        return Pool(self.backend, role, size, make, arguments, self.spec.stall, self._restarts, tell)

    def rollouts(
        self,
        opening: OpenSpec,
        sampler: SamplerKind,
        dtype: str,
        gathered: Callable[[], Mapping[str, Tensor]],
    ) -> PooledSampler:
        """A sampler over rollout workers, with the learner's present weights in them.

        Args:
            opening: the policy, as the learner opened it.
            sampler: the settings of each worker's own.
            dtype: of the products.
            gathered: reads the trained tensors off the learner; every rank calls it.
        """
        pool = self.pool("rollout", RolloutWorker, {"opening": opening, "sampler": sampler, "dtype": dtype})
        return PooledSampler(
            pool, self._transport(), gathered, self.sends, self.spec.verify_weights, self.spec.lookahead
        )

    def scores(self, make: Callable[..., RawScores], arguments: Mapping[str, Any]) -> PooledScores:
        """A model that scores, in workers; what a source of feedback opens its model by."""
        return PooledScores(self.pool("reward", ScoreWorker, {"make": make, "arguments": arguments}))

    def judge(self, sampler: SamplerKind, opening: OpenSpec, where: str) -> Answerers:
        """A judge's sampler, in workers; what a judge opens its model by."""
        arguments = {"opening": opening, "sampler": sampler, "where": where}
        return Answerers(self.pool("reward", JudgeWorker, arguments))

    def _transport(self) -> Transport:
        return TRANSPORTS[self.spec.weights](self)


TRANSPORTS: dict[str, Callable[[Cluster], Transport]] = {
    "auto": lambda cluster: ObjectTransport(cluster.backend),
    "object": lambda cluster: ObjectTransport(cluster.backend),
    "file": lambda cluster: FileTransport(cluster.folder / ".weights"),
}
"""Ways for weights, by their names in `cluster.weights`."""
