"""Engines that several ranks of the learner share: one rank of a team asks them for all of it.

A learner of many GPUs has fewer engines than processes: one engine takes eight GPUs, say. What the members of
a team want goes to its first rank, in the order in which one process would ask for it, and each gets back its
own answers. So nothing above a sampler knows of it, and no answer depends on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from kilter.progress import NOBODY
from kilter.sampling.collect import as_asked
from kilter.seams import Begins, Listener, Sampler
from kilter.training.apart.beside import BesideSampler
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.parallel.teams import Team
from kilter.types import Prompt, Request, Sample, SamplerFacts, Weights

STRIPPED = Request("", Prompt())
"""Stands in an answer on its way: whoever asked has the request."""


@dataclass(frozen=True, eq=False)
class Together:
    """What a team asks for.

    Args:
        own: requests of this rank.
        all: those of all members, under ids of their own; none in ranks that do not lead.
        whose: of each of these ids, the member and its own id. Where all members ask the same, it is theirs.
        begun: what the sampler's `begin` gave.
    """

    own: Sequence[Request]
    all: Sequence[Request]
    whose: dict[str, Sequence[tuple[int, str]]]
    begun: Any = None


class SharedSampler(Sampler):
    """A sampler whose workers the first rank of a team has.

    Every rank of the learner calls every method together, with requests of its own or none.

    Args:
        inner: over this rank's workers; over none in ranks that do not lead.
        team: of ranks.
    """

    def __init__(self, inner: PooledSampler | BesideSampler, team: Team) -> None:
        self.inner, self.team = inner, team
        self._facts: SamplerFacts = team.gather(inner.facts)[0]

    @property
    def facts(self) -> SamplerFacts:
        """Those of the workers."""
        return replace(self._facts, version=self.inner.version)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields this rank's samples when the team's are there."""
        asked = self._together(requests)
        yield from self._dealt(asked, self.inner.run(asked.all, listener))

    def begin(self, requests: Sequence[Request]) -> Together:
        """Sends the team's requests off."""
        asked = self._together(requests)
        return replace(asked, begun=self._beginning.begin(asked.all))

    def finish(self, begun: Together, listener: Listener = NOBODY) -> Iterator[Sample]:
        """This rank's samples of what was begun, when the team's are there."""
        yield from self._dealt(begun, self._beginning.finish(begun.begun, listener))

    def sync(self, weights: Weights) -> int:
        """Every rank takes part in reading the learner's weights; those that lead publish them."""
        return self.inner.sync(weights)

    def close(self) -> None:
        """Ends the workers."""
        self.inner.close()

    @property
    def _beginning(self) -> Begins:
        assert not isinstance(self.inner, BesideSampler), "engines that sleep answer while one waits"
        return self.inner

    def _together(self, requests: Sequence[Request]) -> Together:
        shares: list[list[Request]] = self.team.gather(list(requests))
        if not self.team.leads:
            return Together(requests, (), {})
        # All ranks judge the same held-out answers: these are made once.
        if all(share == shares[0] for share in shares):
            members = range(len(shares))
            return Together(requests, shares[0], {r.id: [(m, r.id) for m in members] for r in shares[0]})
        asked: list[Request] = []
        whose: dict[str, Sequence[tuple[int, str]]] = {}
        for turn in zip_longest(*shares):
            for member, request in enumerate(turn):
                if request is not None:
                    asked.append(replace(request, id=str(len(asked))))
                    whose[asked[-1].id] = [(member, request.id)]
        return Together(requests, asked, whose)

    def _dealt(self, asked: Together, samples: Iterator[Sample]) -> Iterator[Sample]:
        parts: list[list[tuple[str, Sample]]] = [[] for _ in range(self.team.size)]
        for sample in as_asked(samples, self.inner, asked.all):
            for member, own in asked.whose[sample.request.id]:
                parts[member].append((own, replace(sample, request=STRIPPED)))
        found = self.team.gather(parts)[0][self.team.place]
        requests = {r.id: r for r in asked.own}
        yield from (replace(sample, request=requests[own]) for own, sample in found)
