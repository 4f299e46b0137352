"""Answers from workers whose model does not change, such as a judge's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from kilter.cluster import pool as pools
from kilter.cluster.pool import Pool
from kilter.progress import NOBODY
from kilter.roles.open import OpenSpec
from kilter.roles.sampler import open_sampler
from kilter.sampling.config import SamplerKind
from kilter.seams import Chooser, Listener, Sampler
from kilter.training.apart.worker import Worker, cut
from kilter.types import Choice, Prompt, Request, Sample, SamplerFacts, Weights


class Answering(Worker):
    """Answers prompts, through any sampler."""

    sampler: Sampler

    def facts(self) -> SamplerFacts:
        """What the sampler is."""
        return self.sampler.facts

    def generate(self, requests: Sequence[Request], version: int) -> list[Sample]:
        """Every sample of the requests, in the order in which they ended.

        Args:
            requests: whole prompts.
            version: that the weights have at least; calls come in order, so that it is there.
        """
        self.progress.count += 1
        return list(self.sampler.run(requests, self.progress))

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """How probable each option is; only where `facts` says that the sampler knows."""
        self.progress.count += 1
        return cast(Chooser, self.sampler).choose(prompts, options)


class JudgeWorker(Answering):
    """Answers a judge's questions with a model that does not change."""

    def __init__(self, opening: OpenSpec, sampler: SamplerKind, where: str) -> None:
        super().__init__()
        self.sampler = open_sampler(sampler, opening, where)


@dataclass(eq=False)
class Begun:
    """Requests under way. calls: of the pool, each with a share of them."""

    requests: Sequence[Request]
    calls: list[pools.Request]
    since: float


class Answerers:
    """Sampler over a pool of workers whose model does not change, such as a judge's.

    Each worker gets whole prompts, a run of them. A request draws from its own seed, so who answers it does
    not matter.

    Args:
        pool: of workers that answer.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool, self.version = pool, 0
        self._facts: SamplerFacts = pool.result(pool.submit("facts")) if pool.size else SamplerFacts()

    @property
    def facts(self) -> SamplerFacts:
        """The worker's own."""
        return replace(self._facts, begins=True)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Each worker chooses for a run of the prompts; only where `facts` says that it can."""
        parts = cut(prompts, self.pool.size)
        calls = [self.pool.submit("choose", part, options) for part in parts]
        return [choice for call in calls for choice in self.pool.result(call)]

    def begin_choice(self, prompts: Sequence[Prompt], options: Sequence[str]) -> Callable[[], list[Choice]]:
        """Sends the prompts to one worker, so that they share what they have in common."""
        call = self.pool.submit("choose", prompts, options)
        return lambda: cast(list[Choice], self.pool.result(call))

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields samples as shares of the requests end."""
        yield from self.finish(self.begin(requests), listener)

    def begin(self, requests: Sequence[Request]) -> Begun:
        """Sends the requests off, to be answered by the present weights or newer ones."""
        parts = cut(_whole_prompts(requests), self.pool.size)
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


def _whole_prompts(requests: Sequence[Request]) -> list[list[Request]]:
    """Requests by prompt. Those of one prompt count their samples together, so they stay together."""
    found: dict[str, list[Request]] = {}
    for r in requests:
        key = repr((r.prompt.messages, r.prompt.text, r.prompt.tools, r.prompt.template_kwargs, r.prefix_ids))
        found.setdefault(key, []).append(r)
    return list(found.values())
