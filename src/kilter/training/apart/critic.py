"""A critic that trains in a process of its own.

The loss depends on its weights through the values alone, so delta = dL/d(values) says all that it needs:

    L' = sum(delta * values)   has the gradient of L in the critic's weights

What the learner sends is one number per token. The critic runs one forward more than beside the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch, Metrics
from kilter.cluster.pool import Pool
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.models.noise import switch_off_dropout
from kilter.roles.open import OpenSpec, open_model
from kilter.seams import ValueModel
from kilter.training.apart.reference import bare
from kilter.training.apart.worker import Worker
from kilter.training.config import TrainSpec
from kilter.training.join import join_batches, stack
from kilter.training.optim import make_optimizer
from kilter.training.parallel.engine import Engine


class CriticWorker(Worker):
    """The critic with its optimizer.

    Args:
        opening: its model, with a value head.
        spec: of the stage: the optimizer, the micro-batches and the limit of a gradient.
    """

    def __init__(self, opening: OpenSpec, spec: TrainSpec) -> None:
        super().__init__()
        self.spec, self.engine = spec, Engine()
        # Whoever shares this process keeps its own random numbers.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            ready = open_model(opening)
        # The values that the learner saw, and those that are back-propagated, are of one function.
        switch_off_dropout(ready.model)
        self.scorer, self.amp = ready.scorer, ready.amp
        # The name tells the optimizer whose parameters they are.
        self.module: nn.Module = self.engine.wrap(nn.ModuleDict({"critic": self.scorer}))
        self.optimizer = make_optimizer(self.module, spec, spec.critic.learning_rate)
        self.mean, self.deviation = 0.0, 1.0

    def adopt(self, mean: float, deviation: float) -> None:
        """Values become (head - mean) / deviation."""
        self.mean, self.deviation = mean, deviation

    def values(self, batch: Batch) -> Tensor:
        """Values of the batch's tokens, [B, T]."""
        self.module.eval()
        found = torch.zeros(batch.tokens_BT.shape)
        with torch.no_grad():
            for part in self._parts(batch):
                value = self._values(part).cpu()
                found[part.score_B, : value.shape[1]] = value
        return found

    def step(self, batch: Batch, delta_BT: Tensor, rate: float) -> Metrics:
        """One optimizer step. See seams.ValueModel."""
        self.module.train()
        for part in self._parts(batch.with_extra(delta_BT=delta_BT)):
            value = self._values(part)
            delta = part.extra["delta_BT"].to(value.device)
            (delta * value).sum().backward()  # type: ignore[no-untyped-call]

        def set_rates() -> None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

        limit = self.spec.max_grad_norm
        norm = self.engine.update([self.module], self.optimizer, limit, set_rates, finite=True)
        return {"grad_norm": float(norm)}

    def _parts(self, batch: Batch) -> list[Batch]:
        """Micro-batches, whose scores are the numbers of their rows."""
        self.progress.count += 1
        indexed = batch.with_(score_B=torch.arange(batch.rows()))
        return split(indexed, self.spec.tokens_per_microbatch, self.scorer.shared)

    def _values(self, part: Batch) -> Tensor:
        self.progress.count += 1
        found = self.scorer(part, frozenset({"values"}), amp=self.amp).values_BT
        values: Tensor = found
        if (self.mean, self.deviation) != (0.0, 1.0):
            values = (values - self.mean) / self.deviation
        return values

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Earlier weights, by their names."""
        owned = dict(self.module.named_parameters())
        for name, value in weights.items():
            owned[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """Trained weights and optimizer."""
        return self.engine.checkpoint(self.module, self.optimizer, Path())

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.engine.restore(self.module, self.optimizer, state, Path())


class PooledCritic(ValueModel):
    """The learner's side. One rank talks to the critic, for the rows of all.

    Args:
        pool: of one CriticWorker, which nobody can replace; None on the other ranks.
        engine: of the learner.
        opening: the model, for its export.
    """

    def __init__(self, pool: Pool | None, engine: Engine, opening: OpenSpec) -> None:
        self.pool, self.engine, self.opening = pool, engine, opening

    def values(self, batch: Batch) -> Tensor:
        """Values of this rank's rows, [B, T]."""
        shares = self.engine.gather(bare(batch))
        found: Tensor = self._all("values", _joined(shares))
        before = sum(b.rows() for b in shares[: self.engine.rank])
        return found[before : before + batch.rows(), : batch.tokens_BT.shape[1]]

    def step(self, batch: Batch, delta_BT: Tensor, rate: float) -> Metrics:
        """One optimizer step on the rows of all ranks."""
        shares = self.engine.gather((bare(batch), delta_BT))
        whole = _joined([b for b, _ in shares])
        found: Metrics = self._all("step", whole, stack([d for b, d in shares if b.rows()]), rate)
        return found

    def adopt(self, mean: float, deviation: float) -> None:
        """Values become (head - mean) / deviation. Its calls come in order: nobody waits."""
        if self.pool is not None:
            self.pool.submit("adopt", mean, deviation)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer; empty on ranks that do not talk to it."""
        found: dict[str, Any] = self._asked("state") or {}
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._asked("restore", state)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Takes earlier weights."""
        self._asked("take", weights)

    def scorer(self) -> Scorer:
        """The critic as it is now, in this process, for its export."""
        found = open_model(self.opening).scorer
        owned = dict(found.named_parameters())
        with torch.no_grad():
            for name, value in self.state()["model"].items():
                owned[name.removeprefix("critic.")].copy_(value)
        return found

    def _asked(self, method: str, *arguments: Any) -> Any:
        return None if self.pool is None else self.pool.result(self.pool.submit(method, *arguments))

    def _all(self, method: str, *arguments: Any) -> Any:
        """The answer, on every rank."""
        return self.engine.gather(self._asked(method, *arguments))[0]


def _joined(shares: list[Batch]) -> Batch:
    """The rows of all ranks, of which some may have none."""
    return join_batches([b for b in shares if b.rows()] or shares[:1])
