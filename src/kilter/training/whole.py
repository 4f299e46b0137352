"""Sampling beside sharded weights: each process keeps a whole copy of the policy, brought up to date on sync.

A token needs all weights, and gathering them for each would take longer than the token. A copy costs the
memory of the weights alone. Where that does not fit, rollouts belong into workers of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from kilter.models.forward import Scorer
from kilter.progress import NOBODY
from kilter.seams import Chooser, Listener, Sampler
from kilter.types import Choice, Prompt, Request, Sample, SamplerFacts, Weights


class WholeCopy:
    """A copy of a policy that will be sharded in place; made before that.

    `scorer`: the copy, which has no gradient.
    """

    def __init__(self, policy: Scorer) -> None:
        self.policy = policy
        self.scorer = policy.copy().requires_grad_(False)

    def refresh(self) -> None:
        """Takes the trained weights, one tensor after the other. Every rank must call it."""
        with torch.no_grad():
            for own, shard in zip(self.scorer.parameters(), self.policy.parameters(), strict=True):
                # What is frozen has never changed. Only one gathered tensor is in memory at a time.
                if shard.requires_grad:
                    own.copy_(shard.full_tensor() if hasattr(shard, "full_tensor") else shard)


class WholeSampler(Sampler):
    """A sampler over a whole copy, which is refreshed whenever the sampler takes new weights."""

    def __init__(self, sampler: Sampler, copy: WholeCopy) -> None:
        self.sampler, self.copy = sampler, copy

    @property
    def facts(self) -> SamplerFacts:
        """Those of the sampler: the copy's weights are the learner's own."""
        return self.sampler.facts

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Samples from the copy; ranks need not ask for equally many."""
        return self.sampler.run(requests, listener)

    def sync(self, weights: Weights) -> int:
        """Gathers the weights, then hands them on. Every rank must call it."""
        self.copy.refresh()
        return self.sampler.sync(weights)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Of a sampler whose `facts.chooses` is true."""
        chooser: Chooser = self.sampler  # type: ignore[assignment]
        return chooser.choose(prompts, options)

    def close(self) -> None:
        """Closes the sampler."""
        self.sampler.close()
