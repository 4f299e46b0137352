"""Rollouts from workers, each with its own copy of the policy that follows the learner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kilter.cluster import pool as pools
from kilter.cluster.backend import LOST
from kilter.cluster.pool import Pool, Tell
from kilter.cluster.weights import (
    FETCH,
    Package,
    Taken,
    Transport,
    WeightStream,
    checksums,
    difference,
    receive,
)
from kilter.errors import RunFailed
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import SamplerKind
from kilter.training.apart.answers import Answerers, Answering
from kilter.types import SamplerFacts, Weights

Gathered = Callable[[], Mapping[str, Tensor]]
"""The trained tensors of the policy, whole. Every rank calls it together; who has no workers gets none."""


class RolloutWorker(Answering):
    """Answers prompts with a copy of the policy, through any sampler that follows weights.

    Args:
        opening: the policy as the learner opened it, so that its tensors have the same names.
        sampler: the settings.
        dtype: of the products.
    """

    def __init__(self, opening: OpenSpec, sampler: SamplerKind, dtype: str) -> None:
        super().__init__()
        encoder = open_encoder(opening)
        self.scorer = open_model(opening, encoder).scorer
        self.sampler = build(
            SamplerContext(sampler, lambda: (self.scorer, encoder), dtype=dtype), "cluster.rollout"
        )
        self.owned = {n: p for n, p in self.scorer.named_parameters() if p.requires_grad}

    def load(self, package: Package) -> Taken:
        """Takes new weights, all or none of them."""
        receive(package, self.owned, self.progress.tick)
        version = self.sampler.sync(Weights(package.version, self.scorer))
        return Taken(version, checksums(self.owned) if package.verify else {})


@dataclass(eq=False)
class Publication:
    """Weights that workers have still to acknowledge. sent: their checksums, where they are compared."""

    package: Package
    sent: Mapping[str, str]
    asked: list[pools.Request]


class PooledSampler(Answerers):
    """Sampler over a pool of rollout workers.

    Each worker gets whole prompts, a run of them. A request draws from its own seed, so who answers it does
    not matter. Requests name the version that they want at least: what is asked after `sync` is answered by
    the new weights, also where a worker does several calls at once. A rank without workers asks for nothing;
    it takes part in reading the weights off the learner.

    Args:
        pool: of RolloutWorkers, maybe none.
        transport: takes weights to them.
        gathered: reads the weights off the learner.
        verify: checksums are compared at the first publication and every so many; 0 is never.
        ahead: batches that are sampled before the weights are known that they will train.
        note: takes what is no fault, as the pool's `tell` takes what is one.
    """

    def __init__(
        self,
        pool: Pool,
        transport: Transport,
        gathered: Gathered,
        verify: int = 20,
        ahead: int = 0,
        note: Tell = lambda what, detail: None,
    ) -> None:
        super().__init__(pool)
        self.transport, self.gathered, self.note, self._noted = transport, gathered, note, False
        self.verify, self.ahead = verify, ahead
        self.published, self._failed = 0, False
        self._publications: list[Publication] = []
        # Fresh adapters are drawn anew in every process.
        self.sync(Weights(0))

    @property
    def facts(self) -> SamplerFacts:
        """The worker's own. Log-probs of weights that the learner no longer has are not exact."""
        exact = self._facts.exact and not self.ahead
        return replace(self._facts, exact=exact, version=self.version, chooses=False, begins=True)

    def sync(self, weights: Weights) -> int:
        """Publishes the policy's weights; workers take them behind what they are doing."""
        tensors = self.gathered()
        self.version = weights.version
        stream = WeightStream(weights.version, tensors)
        verify = bool(self.verify) and self.published % self.verify == 0
        package = replace(self.transport.send(stream), verify=verify)
        # A worker that comes later is greeted with the newest weights.
        self.pool.greet("load", replace(package, verify=bool(self.verify)))
        sent = self.transport.checksums(stream) if verify else {}
        if asked := self.pool.every("load", package):
            self._publications.append(Publication(package, sent, asked))
        self.published += 1
        return self.version

    def look(self) -> None:
        """Looks at the acknowledgements that have come. Who holds other weights is replaced.

        Raises:
            RunFailed: the next weights that were compared did not arrive either, or nobody can be replaced.
        """
        for found in [p for p in self._publications if all(r.done for r in p.asked)]:
            self._publications.remove(found)
            # A worker that was lost meanwhile has a successor, who was greeted.
            reports = [r.report for r in found.asked if r.report is not None and r.report.kind != LOST]
            self._tell_compared(found.package, [r.value for r in reports])
            problems = {r.where: difference(found.package, found.sent, r.value) for r in reports}
            wrong = {where: problem for where, problem in problems.items() if problem}
            if wrong and (self._failed or not self.pool.restarts.left):
                where, problem = next(iter(wrong.items()))
                again = "run the same command again; set cluster.weights to another way if it happens twice"
                raise RunFailed(f"A publication of weights failed at {where}: {problem}", again)
            if wrong or found.sent:
                self._failed = bool(wrong)
            for where, problem in wrong.items():
                self._successor(where, problem)

    def _tell_compared(self, package: Package, taken: Sequence[Taken]) -> None:
        """Says once how many tensors an engine shows as they were sent, where these are not all."""
        if not package.verify or self._noted:
            return
        self._noted = True
        counts = [found for t in taken if (found := t.compared or self.transport.compared) is not None]
        count, of = min(counts, default=(0, 0))
        if count == of:
            return
        left = "are compared as its worker read them" if package.names else "are not compared"
        cause = "divides, fuses or re-arranges"
        if count:
            self.note("weights compared", f"{count} of {of} tensors: vLLM {cause} the others, which {left}")
        else:
            self.pool.tell(
                "weights not compared", f"none of {of} tensors: vLLM {cause} them all, which {left}"
            )

    def _successor(self, where: str, problem: str) -> None:
        """Another worker takes the place of one with other weights; its own are compared as well."""
        asked = self.pool.replace(where, problem)
        for request in asked:
            (package,) = request.arguments
            newest = WeightStream(package.version, FETCH[package.way](package.place, lambda: None))
            self._publications.append(Publication(package, newest.checksums(), [request]))

    def settle(self) -> None:
        """Waits until every worker has taken the last weights, and their checksums were compared."""
        self.look()
        while self._publications or any(slot.running for slot in self.pool.slots):
            self.pool.poll(pools.TURN)
            self.look()
