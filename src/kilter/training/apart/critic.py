"""A critic that trains in processes of its own.

The loss depends on its weights through the values alone, so delta = dL/d(values) says all that it needs:

    L' = sum(delta * values)   has the gradient of L in the critic's weights

What the learner sends is one number per token. The critic runs one forward more than beside the policy.
Several processes share the rows: each has all weights, or with `fsdp` its part of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch, Metrics, Outputs
from kilter.cluster.pool import Pool
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.models.noise import switch_off_dropout
from kilter.roles.open import OpenSpec, open_model
from kilter.seams import ValueModel
from kilter.training.apart.reference import bare
from kilter.training.apart.worker import Worker, cut
from kilter.training.config import TrainSpec
from kilter.training.join import join_batches, stack
from kilter.training.optim import make_optimizer
from kilter.training.parallel.choose import make_group
from kilter.training.parallel.engine import Engine
from kilter.training.parallel.ranks import Place, environment, place_of, store_at
from kilter.training.parallel.shards import put, take_whole, whole_state


class _Named(nn.Module):
    """The critic under the name that it has beside the policy, which tells the optimizer whose it is."""

    def __init__(self, critic: Scorer) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, batch: Batch, amp: bool) -> Outputs:
        """Its values."""
        found: Outputs = self.critic(batch, frozenset({"values"}), amp=amp)
        return found


class CriticWorker(Worker):
    """The critic with its optimizer, or one of several processes that train it.

    Args:
        opening: its model, with a value head.
        spec: of the stage: the optimizer, the micro-batches and the limit of a gradient.
        world: processes that train it. Several begin when each has heard of the others, by `join`.
    """

    def __init__(self, opening: OpenSpec, spec: TrainSpec, world: int = 1) -> None:
        super().__init__()
        self.spec = spec
        # Whoever shares this process keeps its own random numbers.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            ready = open_model(opening)
        # The values that the learner saw, and those that are back-propagated, are of one function.
        switch_off_dropout(ready.model)
        self.scorer, self.amp = ready.scorer, ready.amp
        self.mean, self.deviation = 0.0, 1.0
        if world == 1:
            self._begin(Engine())

    def _begin(self, engine: Engine) -> None:
        self.engine, named = engine, _Named(self.scorer)
        self.module: nn.Module = engine.wrap(named)
        self.optimizer = make_optimizer(self.module, self.spec, self.spec.critic.learning_rate)

    def place(self, address: str) -> Place:
        """Where this process is, on a node that others reach at an address."""
        return place_of(address)

    def listen(self, address: str) -> int:
        """Opens the store by which the processes find each other; its port."""
        self.store = store_at(address)
        return int(self.store.port)

    def join(self, rank: int, places: list[Place], port: int) -> None:
        """Meets the other processes; each calls it."""
        os.environ.update(environment(rank, places, port))
        self._begin(make_group(self.spec.fsdp, self.spec.dtype, len(places)))

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
        parts = self._parts(batch.with_extra(delta_BT=delta_BT))
        for n, part in enumerate(parts):
            with self.engine.accumulate(self.module, last=n == len(parts) - 1):
                value = self._values(part)
                delta = part.extra["delta_BT"].to(value.device)
                self.engine.backward(self.module, (delta * value).sum() * self.engine.loss_scale)

        def set_rates() -> None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate

        limit = self.spec.max_grad_norm
        norm = self.engine.update([self.module], self.optimizer, limit, set_rates, finite=True)
        return {"grad_norm": float(norm)}

    def _parts(self, batch: Batch) -> list[Batch]:
        """Micro-batches, whose scores are the numbers of their rows; as many on each process."""
        self.progress.count += 1
        indexed = batch.with_(score_B=torch.arange(batch.rows()))
        parts = split(indexed, self.spec.tokens_per_microbatch, self.scorer.shared)
        # Forwards of divided weights are common work. One that only keeps step teaches nothing.
        idle = [_silent(part) for part in parts[:1]]
        return parts + idle * (self.engine.max(len(parts)) - len(parts))

    def _values(self, part: Batch) -> Tensor:
        self.progress.count += 1
        found = self.module(part, self.amp).values_BT
        values: Tensor = found
        if (self.mean, self.deviation) != (0.0, 1.0):
            values = (values - self.mean) / self.deviation
        return values

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Earlier weights, by their names."""
        owned = {n.removeprefix("module."): p for n, p in self.module.named_parameters()}
        for name, value in weights.items():
            put(owned[name], value)

    def state(self) -> dict[str, Any]:
        """Trained weights and optimizer, whole, by the first process; the others give nothing."""
        found = {"model": self.engine.state(self.module), "optimizer": whole_state(self.optimizer)}
        return found if self.engine.is_main else {}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.take(state["model"])
        take_whole(self.optimizer, state["optimizer"])


def _silent(part: Batch) -> Batch:
    """A micro-batch that teaches nothing."""
    if "delta_BT" not in part.extra:
        return part
    return part.with_extra(delta_BT=torch.zeros_like(part.extra["delta_BT"]))


class PooledCritic(ValueModel):
    """The learner's side. One rank talks to the critic, for the rows of all.

    Args:
        pool: of CriticWorkers, none of whom can be replaced; None on the other ranks.
        engine: of the learner.
        opening: the model, for its export.
    """

    def __init__(self, pool: Pool | None, engine: Engine, opening: OpenSpec) -> None:
        self.pool, self.engine, self.opening = pool, engine, opening
        if pool is not None and pool.size > 1:
            where = {slot.number: slot.handle.address for slot in pool.slots}
            places = pool.ask_all("place", lambda n: (where[n],))
            # Nobody has anything to do: it goes to the first.
            port = pool.result(pool.submit("listen", where[0]))
            pool.ask_all("join", lambda n: (n, places, port))

    def values(self, batch: Batch) -> Tensor:
        """Values of this rank's rows, [B, T]."""
        shares = self.engine.gather(bare(batch))
        found: Tensor = self._everywhere(lambda: self._asked_values(_joined(shares)))
        before = sum(b.rows() for b in shares[: self.engine.rank])
        return found[before : before + batch.rows(), : batch.tokens_BT.shape[1]]

    def step(self, batch: Batch, delta_BT: Tensor, rate: float) -> Metrics:
        """One optimizer step on the rows of all ranks."""
        shares = self.engine.gather((bare(batch), delta_BT))
        whole = _joined([b for b, _ in shares])
        delta = stack([d for b, d in shares if b.rows()])
        found: Metrics = self._everywhere(lambda: self._asked_step(whole, delta, rate))
        return found

    def adopt(self, mean: float, deviation: float) -> None:
        """Values become (head - mean) / deviation. Its calls come in order: nobody waits."""
        if self.pool is not None:
            self.pool.every("adopt", mean, deviation)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer; empty on ranks that do not talk to it."""
        found: dict[str, Any] = self._all("state")[0] if self.pool is not None else {}
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._all("restore", state)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Takes earlier weights."""
        self._all("take", weights)

    def scorer(self) -> Scorer:
        """The critic as it is now, in this process, for its export."""
        found = open_model(self.opening).scorer
        owned = dict(found.named_parameters())
        with torch.no_grad():
            for name, value in self.state()["model"].items():
                owned[name.removeprefix("critic.")].copy_(value)
        return found

    def _asked_values(self, whole: Batch) -> Tensor:
        found = torch.zeros(whole.tokens_BT.shape)
        parts = self._parts(whole)
        for part, value in zip(parts, self._each("values", lambda n: (parts[n],)), strict=True):
            found[part.score_B, : value.shape[1]] = value
        return found

    def _asked_step(self, whole: Batch, delta_BT: Tensor, rate: float) -> Metrics:
        parts = self._parts(whole)
        deltas = [delta_BT[part.score_B, : part.tokens_BT.shape[1]] for part in parts]
        # Whoever has no rows of its own keeps step with those of the first, which teach nothing there.
        own = min(self.pool.size, whole.groups()) if self.pool is not None else 0
        deltas[own:] = [torch.zeros_like(delta) for delta in deltas[own:]]
        found: Metrics = self._each("step", lambda n: (parts[n], deltas[n], rate))[0]
        return found

    def _parts(self, whole: Batch) -> list[Batch]:
        """The rows of each process, whose scores are their numbers; where groups are few, the first again."""
        assert self.pool is not None, "only one rank asks"
        numbered = whole.with_(score_B=torch.arange(whole.rows()))
        shares = cut(range(whole.groups()), self.pool.size) or [[]]
        shares += shares[:1] * (self.pool.size - len(shares))
        return [numbered.select_groups(groups) for groups in shares]

    def _each(self, method: str, arguments: Callable[[int], tuple[Any, ...]]) -> list[Any]:
        assert self.pool is not None, "only one rank asks"
        return self.pool.ask_all(method, arguments)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return [] if self.pool is None else self._each(method, lambda n: arguments)

    def _everywhere(self, asked: Callable[[], Any]) -> Any:
        """The answer, on every rank."""
        return self.engine.gather(asked() if self.pool is not None else None)[0]


def _joined(shares: list[Batch]) -> Batch:
    """The rows of all ranks, of which some may have none."""
    return join_batches([b for b in shares if b.rows()] or shares[:1])
