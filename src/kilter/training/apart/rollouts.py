"""A Sampler whose answers come from a pool of workers, each with its own copy of the policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kilter.cluster import pool as pools
from kilter.cluster.backend import LOST
from kilter.cluster.pool import Pool
from kilter.cluster.weights import Transport, WeightStream, require_same
from kilter.progress import NOBODY
from kilter.seams import Listener
from kilter.types import Choice, Prompt, Request, Sample, SamplerFacts, Weights

Gathered = Callable[[], Mapping[str, Tensor]]
"""The trained tensors of the policy, whole. Every rank calls it together; all but one may get none."""


@dataclass(eq=False)
class Begun:
    """Requests under way. calls: of the pool, each with a share of them."""

    requests: Sequence[Request]
    calls: list[pools.Request]
    since: float


@dataclass(eq=False)
class Publication:
    """Weights that workers have still to acknowledge. sent: their checksums, where they are compared."""

    version: int
    sent: Mapping[str, str]
    asked: list[pools.Request]


class Answerers:
    """Sampler over a pool of workers whose model does not change, such as a judge's.

    Each worker gets whole prompts, a run of them. A request draws from its own seed, so who answers it does
    not matter.

    Args:
        pool: of workers that answer.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool, self.version = pool, 0
        self._facts: SamplerFacts = pool.result(pool.submit("facts"))

    @property
    def facts(self) -> SamplerFacts:
        """The worker's own."""
        return replace(self._facts, begins=True)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Each worker chooses for a run of the prompts; only where `facts` says that it can."""
        parts = pools.shares(prompts, self.pool.size)
        calls = [self.pool.submit("choose", part, options) for part in parts]
        return [choice for call in calls for choice in self.pool.result(call)]

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields samples as shares of the requests end."""
        yield from self.finish(self.begin(requests), listener)

    def begin(self, requests: Sequence[Request]) -> Begun:
        """Sends the requests off, to be answered by the present weights or newer ones."""
        parts = pools.shares(_whole_prompts(requests), self.pool.size)
        sent = [[r for same in part for r in same] for part in parts]
        calls = [self.pool.submit("generate", part, self.version) for part in sent]
        return Begun(requests, calls, time.perf_counter())

    def finish(self, begun: Begun, listener: Listener = NOBODY) -> Iterator[Sample]:
        """Every sample of what was begun."""
        left, done, tokens = list(begun.calls), 0, 0
        while left:
            self.pool.poll(0.0 if any(call.done for call in left) else pools.TURN)
            self.look()
            for call in [call for call in left if call.done]:
                left.remove(call)
                samples: list[Sample] = self.pool.result(call)
                done, tokens = done + len(samples), tokens + sum(s.usage.tokens for s in samples)
                listener.finished(done, tokens / max(time.perf_counter() - begun.since, 1e-9))
                yield from samples

    def look(self) -> None:
        """Called between two looks at the pool."""

    def sync(self, weights: Weights) -> int:
        """The model does not change."""
        return self.version

    def close(self) -> None:
        """Ends the workers."""
        self.pool.close()


class PooledSampler(Answerers):
    """Sampler over a pool of rollout workers.

    Each worker gets whole prompts, a run of them. A request draws from its own seed, so who answers it does
    not matter. Requests name the version that they want at least: what is asked after `sync` is answered by
    the new weights, also where a worker does several calls at once.

    Args:
        pool: of RolloutWorkers.
        transport: takes weights to them.
        gathered: reads the weights off the learner.
        sends: whether this rank publishes.
        verify: checksums are compared at the first publication and every so many; 0 is never.
        ahead: batches that are sampled before the weights are known that they will train.
    """

    def __init__(
        self,
        pool: Pool,
        transport: Transport,
        gathered: Gathered,
        sends: bool = True,
        verify: int = 20,
        ahead: int = 0,
    ) -> None:
        super().__init__(pool)
        self.transport, self.gathered = transport, gathered
        self.sends, self.verify, self.ahead = sends, verify, ahead
        self.published = 0
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
        if not self.sends:
            return self.version
        stream = WeightStream(weights.version, tensors)
        verify = bool(self.verify) and self.published % self.verify == 0
        package = replace(self.transport.send(stream), verify=verify)
        # A worker that comes later is greeted with the newest weights.
        self.pool.greet("load", package)
        asked = self.pool.every("load", package)
        self._publications.append(
            Publication(package.version, self.transport.checksums(stream) if verify else {}, asked)
        )
        self.published += 1
        return self.version

    def look(self) -> None:
        """Looks at the acknowledgements that have come. Raises RunFailed where other weights arrived."""
        for found in [p for p in self._publications if all(r.done for r in p.asked)]:
            self._publications.remove(found)
            # A worker that was lost meanwhile has a successor, who was greeted.
            reports = [r.report for r in found.asked if r.report is not None and r.report.kind != LOST]
            require_same(found.version, found.sent, [(r.where, r.value) for r in reports])

    def settle(self) -> None:
        """Waits until every worker has taken the last weights, and their checksums were compared."""
        while any(slot.running for slot in self.pool.slots):
            self.pool.poll(pools.TURN)
        self.look()


def _whole_prompts(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests by prompt. Those of one prompt count their samples together, so they stay together."""
    found: dict[str, list[Request]] = {}
    for r in requests:
        key = repr((r.prompt.messages, r.prompt.text, r.prompt.tools, r.prompt.template_kwargs, r.prefix_ids))
        found.setdefault(key, []).append(r)
    return list(found.values())
