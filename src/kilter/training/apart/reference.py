"""Log-probs of a reference in workers. A batch is cut into whole groups, a run of them for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.cluster.pool import Pool
from kilter.cluster.weights import Package, Taken, Transport, WeightStream, receive
from kilter.models.reference import LiveReference, logps_by_parts
from kilter.roles.open import OpenSpec, open_model
from kilter.seams import LogProbs
from kilter.training.apart.worker import Worker, cut

KEPT = ("prompts_N", "tokens_BT", "mask_BT", "length_B", "group_B", "margin_N")
"""What a forward reads of a batch."""


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
        self.moved = False

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs of the batch's tokens, [B, T], in nats."""
        self.progress.count += 1
        return self.reference.lookup(batch)

    def load(self, package: Package) -> Taken:
        """Takes the weights of a later policy."""
        self.moved = True
        receive(package, dict(self.scorer.named_parameters()), self.progress.tick)
        return Taken(package.version, {})

    def again(self) -> bool:
        """Only where it still is the reference that every learner begins with."""
        return not self.moved

    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return self.reference.state() or {}


class PooledReference(LogProbs):
    """A frozen model in workers.

    Args:
        pool: of ReferenceWorkers.
        transport: takes weights to them when the reference moves.
        gathered: the policy's weights, which every rank reads together.
    """

    def __init__(
        self, pool: Pool, transport: Transport, gathered: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self.pool, self.transport, self.gathered = pool, transport, gathered
        self.moves = 0

    def lookup(self, batch: Batch) -> Tensor:
        """ref_logps_BT of the batch."""
        whole = bare(batch).with_(score_B=torch.arange(batch.rows()))
        parts = [whole.select_groups(g) for g in cut(range(batch.groups()), self.pool.size)]
        calls = [self.pool.submit("logps", part) for part in parts]
        found = torch.zeros(batch.tokens_BT.shape)
        for part, call in zip(parts, calls, strict=True):
            value = self.pool.result(call)
            found[part.score_B, : value.shape[1]] = value
        return found

    def refresh(self) -> None:
        """The reference becomes the present policy."""
        self._publish(self.gathered())

    def state(self) -> dict[str, Tensor] | None:
        """Weights of a reference that has moved, from one of its workers."""
        found: dict[str, Tensor] = self.pool.result(self.pool.submit("weights"))
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._publish(state)

    def close(self) -> None:
        """Ends the workers."""
        self.pool.close()

    def _publish(self, tensors: Mapping[str, Tensor]) -> None:
        """Workers take the weights behind what they are doing; one that comes later is greeted with them."""
        self.moves += 1
        package = self.transport.send(WeightStream(self.moves, tensors))
        self.pool.greet("load", package)
        self.pool.every("load", package)


def bare(batch: Batch) -> Batch:
    """A batch with what a forward reads, and none of its annotations."""
    empty = {f.name: None for f in fields(Batch) if f.name not in KEPT and f.default is None}
    return batch.with_(**empty, state={}, extra={})
