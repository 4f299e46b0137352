"""What workers hold, by role. Each is made in its own process from plain arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from kilter.batch import Batch
from kilter.cluster.weights import Package, Taken, checksums, receive
from kilter.models.reference import LiveReference, logps_by_parts
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.roles.sampler import open_sampler
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import SamplerKind
from kilter.seams import Chooser, RawScores, Sampler
from kilter.types import Choice, Feedback, Group, Prompt, Request, Sample, SamplerFacts, Weights


class Progress:
    """Counts what a worker has done, so that others see whether it goes on. A Listener that shows nothing."""

    wants_text = False

    def __init__(self) -> None:
        self.count = 0

    def finished(self, samples: int, tokens_per_second: float | None) -> None:
        """Called with each decoding step."""
        self.count += 1

    def text(self, request: Request, index: int, piece: str) -> None:
        """Never called: it wants no text."""


class Worker:
    """What all roles answer."""

    def __init__(self) -> None:
        self.progress = Progress()

    def ready(self) -> None:
        """Returns when the worker can serve."""

    def pulse(self) -> int:
        """A number that grows with the work that was done."""
        return self.progress.count


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


class ScoreWorker(Worker):
    """Scores answers with a model that does not change.

    Args:
        make: the model's class.
        arguments: of it, plain.
    """

    def __init__(self, make: Callable[..., RawScores], arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = make(**arguments)

    def scores(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion, as the model gives it."""
        self.progress.count += 1
        return self.model(groups)


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
        receive(package, self.owned)
        version = self.sampler.sync(Weights(package.version, self.scorer))
        return Taken(version, checksums(self.owned) if package.verify else {})


class ReferenceWorker(Worker):
    """Log-probs of a frozen model, or of the base under adapters that are switched off.

    Args:
        opening: the model; with adapters where the policy's base is the reference.
        temperature: of the rollouts.
        budget: tokens of a micro-batch.
    """

    def __init__(self, opening: OpenSpec, temperature: float, budget: int) -> None:
        super().__init__()
        ready = open_model(opening)
        self.scorer = ready.scorer.requires_grad_(False)
        frozen = None if opening.adapter is not None else self.scorer
        rows = functools.partial(logps_by_parts, budget=budget)
        self.reference = LiveReference(self.scorer, frozen, ready.amp, temperature, rows)

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs of the batch's tokens, [B, T], in nats."""
        self.progress.count += 1
        return self.reference.lookup(batch)

    def load(self, package: Package) -> Taken:
        """Takes the weights of a later policy."""
        receive(package, dict(self.scorer.named_parameters()))
        return Taken(package.version, {})

    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return self.reference.state() or {}
