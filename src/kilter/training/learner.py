"""The learner: owns the model and the optimizer, splits batches, back-propagates, steps."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch, Loss, Mean, Metrics, Needs, Objective
from kilter.models.critic import ActorCritic
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.models.packing import shared_tokens
from kilter.models.reference import LiveReference, ReferenceCache
from kilter.seams import Origin
from kilter.training.annotate import chosen
from kilter.training.config import TrainSpec
from kilter.training.optim import make_optimizer, schedule_factor
from kilter.training.parallel.engine import Engine

log = logging.getLogger("kilter")

COUNTS = ("n_tokens_total", "n_rows_total", "n_groups_total")
"""Fields of a Batch that count over the optimizer step; those in `extra` end in _total as well."""

ADAPTER_RATE = 10.0
"""Adapters begin at zero and are few: a method's own rate is taken this many times for them."""


class LocalLearner:
    """Implements the Learner protocol in process, on one device or as one rank of several.

    `reference` gives the reference log-probs of every group that will be annotated. `temperature`: that of the rollouts;
    log-probs are taken at it.
    """

    def __init__(
        self,
        scorer: Scorer | ActorCritic,
        needs: Needs,
        spec: TrainSpec,
        total_steps: int,
        engine: Engine,
        reference: ReferenceCache | LiveReference | None = None,
        temperature: float = 1.0,
        origin: Origin = "own",
    ) -> None:
        self.scorer, self.needs, self.spec, self.engine, self.reference = (
            scorer,
            needs,
            spec,
            engine,
            reference,
        )
        self.temperature = temperature
        self.origin: Origin = origin
        self.mismatch: Metrics = {}
        """Of the last batch: how far the sampling engine's log-probs are from the learner's."""
        self.amp = spec.dtype == "bfloat16"
        self.step_index = 0
        self.module: nn.Module = engine.wrap(scorer)
        self.peak_rate = spec.learning_rate or needs.learning_rate * (
            ADAPTER_RATE if spec.adapter is not None else 1
        )
        self.module, self.optimizer = engine.prepare(
            self.module, make_optimizer(self.module, spec, self.peak_rate)
        )
        self._critic_only = spec.critic.warmup_steps if isinstance(scorer, ActorCritic) else 0
        self._factor = schedule_factor(spec, total_steps)
        self._epochs = spec.inner_epochs or needs.inner_epochs
        self.steps_per_batch = self._epochs * spec.minibatches
        self.length_limit = spec.sampler.max_new_tokens
        self._told_twice = False
        self.running: dict[str, Tensor] = {}
        """What the objective carries from step to step."""

    def score(self, batch: Batch, outputs: frozenset[str]) -> Iterator[tuple[Batch, Any]]:
        """Forward without gradient, micro-batch by micro-batch: (micro-batch, Outputs).

        Every rank must call it; ranks with fewer micro-batches repeat their last one, so that collectives match.
        """
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                parts = self._split(batch, outputs)
                for i in range(self.engine.max(len(parts))):
                    out = self.module(parts[min(i, len(parts) - 1)], outputs, self.temperature, amp=self.amp)
                    if i < len(parts):
                        yield parts[i], out
        finally:
            self.module.train(training)

    def _split(self, batch: Batch, outputs: frozenset[str]) -> list[Batch]:
        """Micro-batches by the tokens that the forward really runs: with input embeddings it runs plain rows."""
        return split(
            batch, self.spec.tokens_per_microbatch, self.scorer.shared and "embeddings" not in outputs
        )

    def annotate(self, batch: Batch, needs: Needs) -> Batch:
        """Counts over all ranks, and what `needs` names; see annotate.py."""
        batch = self.count(batch).with_(state=self.running)
        for annotate in chosen(needs):
            batch = annotate(batch, self)
        if self.origin == "engine" and batch.sampling_logps_BT is not None:
            self._measure_mismatch(batch, needs.opponent is not None)
        return batch

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs of the reference, [B, T], nats."""
        assert self.reference is not None, "reference log-probs were not computed"
        found = self.reference.lookup(batch)
        assert found is not None, "a row of the batch is missing from the reference cache"
        return found

    def _measure_mismatch(self, batch: Batch, opponent: bool) -> None:
        """KL(sampler || learner) per token (k3) and the largest gap, over the policy's own answers of all ranks."""
        own = (
            batch.old_logps_BT
            if batch.old_logps_BT is not None
            else self.rows(batch, frozenset({"logps"}))["logps"]
        )
        assert batch.sampling_logps_BT is not None
        mask = batch.mask_BT * (batch.first_B().float()[:, None] if opponent else 1.0)
        gap = (own - batch.sampling_logps_BT) * mask
        sums = self.engine.sum(
            torch.stack([((gap.exp() - gap - 1) * mask).sum(), gap.abs().sum(), mask.sum()]).float()
        )
        largest = max(self.engine.gather(float(gap.abs().max())))
        count = max(float(sums[2]), 1.0)
        self.mismatch = {
            "sampling/mismatch_kl": float(sums[0]) / count,
            "sampling/sampling_logp_difference/mean": float(sums[1]) / count,
            "sampling/sampling_logp_difference/max": largest,
        }

    def prepare(self, batch: Batch, objective: Objective) -> Batch:
        """The objective's credit and weights. Baselines and whitening span all ranks: each sees the others' rows, and keeps its own."""
        if self.engine.world == 1 or objective.needs.shape != "rollouts":
            return objective.prepare(batch)
        gathered = self.engine.gather(batch)
        before = sum(b.groups() for b in gathered[: self.engine.rank])
        whole = objective.prepare(_concat_batches(gathered))
        return whole.select_groups(range(before, before + batch.groups()))

    def count(self, batch: Batch) -> Batch:
        """The counts of the optimizer step, over all ranks: the only denominators of a loss."""
        batch = batch.counted()
        extra = [name for name in batch.extra if name.endswith("_total")]
        counts = [getattr(batch, name) for name in COUNTS] + [batch.extra[name] for name in extra]
        totals = self.sum(torch.stack(counts))
        return batch.with_(**dict(zip(COUNTS, totals, strict=False))).with_extra(
            **dict(zip(extra, totals[len(COUNTS) :], strict=True))
        )

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all ranks, on the CPU."""
        return self.engine.sum(value).cpu()

    def rows(self, batch: Batch, outputs: frozenset[str]) -> dict[str, Tensor]:
        """Token outputs of a whole batch without gradient, rows in the batch's order, by the names in `outputs`."""
        indexed = batch.with_(score_B=torch.arange(batch.rows()))
        found = {name: torch.zeros(batch.tokens_BT.shape) for name in outputs}
        for part, out in self.score(indexed, outputs):
            for name in outputs:
                value = getattr(out, f"{name}_BT").cpu()
                found[name][part.score_B, : value.shape[1]] = value
        return found

    def reference_rows(self, batch: Batch, scorer: Scorer, temperature: float, amp: bool) -> Tensor:
        """Log-probs of a whole batch under another model; what a LiveReference calls."""
        indexed = batch.with_(score_B=torch.arange(batch.rows()))
        found = torch.zeros(batch.tokens_BT.shape)
        for part in split(indexed, self.spec.tokens_per_microbatch, scorer.shared):
            value = scorer(part, frozenset({"logps"}), temperature, amp).logps_BT.cpu()
            found[part.score_B, : value.shape[1]] = value
        return found

    def minibatches(self, batch: Batch, seed: str, objective: Objective) -> Iterator[Batch]:
        """The optimizer steps on one batch: itself, or its parts over several passes in an order drawn from `seed`.

        Credit (advantages) stays that of the whole batch; weights are those of the part, which is an optimizer step of its own.
        """
        if self.steps_per_batch == 1:
            yield batch
            return
        for epoch in range(self._epochs):
            order = list(range(batch.groups()))
            random.Random(f"{seed}:{epoch}").shuffle(order)
            count = -self.engine.max(
                -min(self.spec.minibatches, len(order))
            )  # all ranks take equally many steps
            for i in range(count):
                part = self.count(batch.select_groups(sorted(order[i::count])))
                own = objective.prepare(part)
                yield part.with_(group_weight_N=own.group_weight_N, weight_BT=own.weight_BT, extra=own.extra)

    def update(self, batch: Batch, objective: Objective, number: int) -> Metrics:
        """The optimizer steps on a prepared batch; `number`: the step of the loop, from which their order follows."""
        parts = self.minibatches(batch, f"{self.spec.seed}:{number}", objective)
        return _average([self.step(part, objective) for part in parts])

    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self.peak_rate * self._factor(self.step_index)

    def step(self, batch: Batch, objective: Objective) -> Metrics:
        """One optimizer step on a prepared batch. Metrics: loss, grad_norm, learning_rate and the objective's own."""
        needs = objective.needs
        self.module.train()
        working = (
            batch
            if batch.active_N is None or bool(batch.active_N.all())
            else batch.select_groups(batch.active_N.nonzero()[:, 0].tolist() or [0])
        )
        idle_rank = batch.active_N is not None and not bool(batch.active_N.any())
        parts = self._split(working, needs.outputs)
        # A batch that is one micro-batch is the whole batch: its own graph serves, and no second forward is needed.
        coupled = needs.unit == "batch" and (len(parts) > 1 or self.engine.world > 1)
        surrogate = self._surrogate(batch, parts, objective) if coupled else None
        # Collectives must match: every rank runs as many micro-batches as the rank with the most.
        rounds = self.engine.max(0 if idle_rank else len(parts))
        total = torch.zeros(())
        metrics: dict[str, Mean] = {}
        for i in range(rounds):
            part, idle = parts[min(i, len(parts) - 1)], idle_rank or i >= len(parts)
            with self.engine.accumulate(self.module, last=i == rounds - 1):
                with self._offloaded():
                    out = self.module(part, needs.outputs, self.temperature, amp=self.amp)
                out = type(out)(
                    **{
                        k: None if v is None else v if k == "embeddings_BLD" else v.cpu()
                        for k, v in _fields(out)
                    }
                )
                if surrogate is not None:
                    value = surrogate(out, min(i, len(parts) - 1))
                    found: dict[str, Mean] = {}
                else:
                    loss = objective.loss(out, part)
                    value, found = loss.value, loss.metrics
                    if loss.state is not None:
                        assert needs.unit == "batch", "only objectives of unit 'batch' can carry state"
                        self.running = {k: v.detach() for k, v in loss.state.items()}
                scale = 0.0 if idle else self.engine.loss_scale
                self.engine.backward(self.module, value * scale)
            if not idle:
                total = total + value.detach()
                for name, mean in found.items():
                    old = metrics.get(name)
                    metrics[name] = (
                        mean if old is None else Mean(old.total + mean.total, old.weight + mean.weight)
                    )
        if surrogate is not None:
            # Every rank computed the loss of all ranks' rows.
            total, metrics = self._batch_loss.value.detach() / self.engine.world, self._batch_loss.metrics
            self.running = {k: v.detach() for k, v in (self._batch_loss.state or {}).items()}
        if (
            rounds == 0
        ):  # no group of any rank has a gradient: nothing is learned, and no moment of the optimizer moves
            self.step_index += 1
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": self.learning_rate()}
        rate = self.learning_rate()

        def set_rates() -> None:
            for group in self.optimizer.param_groups:
                if group.get("role") == "critic":
                    group["lr"] = self.spec.critic.learning_rate * self._factor(self.step_index)
                else:
                    group["lr"] = 0.0 if self.step_index < self._critic_only else rate

        result = self._reduce(total, metrics) | {"learning_rate": rate}
        result["grad_norm"] = float(
            self.engine.update(
                self._clipped(),
                self.optimizer,
                self.spec.max_grad_norm,
                set_rates,
                math.isfinite(result["loss"]),
            )
        )
        self.step_index += 1
        return result

    def _offloaded(self) -> contextlib.AbstractContextManager[Any]:
        """Around a forward: activations wait in host memory for the backward."""
        if not self.spec.activation_offloading:
            return contextlib.nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())

    def _clipped(self) -> list[nn.Module]:
        """Policy and critic are clipped apart: their gradients have no common scale."""
        return (
            [self.scorer.policy, self.scorer.critic]
            if isinstance(self.scorer, ActorCritic)
            else [self.module]
        )

    def _surrogate(
        self, batch: Batch, parts: Sequence[Batch], objective: Objective
    ) -> Callable[[Any, int], Tensor]:
        """Unit "batch": delta = dL/d(outputs) on the small tensors of the whole batch, all ranks', then sum(delta * output) per part.

        Exact: the loss depends on the parameters only through these outputs.
        """
        if not self._told_twice and len(parts) > 1 and self.engine.is_main:
            self._told_twice = True
            tokens = sum(shared_tokens(p, g, p.length_B.tolist()) for p in parts for g in range(p.groups()))
            log.info(
                "  this method reads the whole batch at once: its %d micro-batches go forward twice, a third more time; "
                "tokens_per_microbatch from %d up avoids that and takes more memory",
                len(parts),
                tokens,
            )
        outs = []
        random_state = (
            torch.get_rng_state(),
            (torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []),
        )
        with torch.no_grad():  # in training mode: the same function as in the backward
            for i in range(self.engine.max(len(parts))):
                out = self.module(
                    parts[min(i, len(parts) - 1)], objective.needs.outputs, self.temperature, amp=self.amp
                )
                outs += [out] if i < len(parts) else []
        torch.set_rng_state(random_state[0])  # the backward's forward draws the same adapter dropout
        if random_state[1]:
            torch.cuda.set_rng_state_all(random_state[1])
        mine = _join(outs, parts)
        # Batches hold tensors of the same fields on every rank; they are small (token ids and one number per token).
        gathered = self.engine.gather((mine, _join_batches(batch, parts)))
        whole, leaves = _concat_outputs([o for o, _ in gathered])
        self._batch_loss = objective.loss(whole, _concat_batches([b for _, b in gathered]))
        grads = torch.autograd.grad(self._batch_loss.value, list(leaves.values()), allow_unused=True)
        before = sum(b.rows() for _, b in gathered[: self.engine.rank])
        deltas = {
            k: g[before : before + batch.rows()] for k, g in zip(leaves, grads, strict=True) if g is not None
        }

        def value(out: Any, index: int) -> Tensor:
            first = sum(p.rows() for p in parts[:index])
            total = torch.zeros(())
            for name, delta in deltas.items():
                own = getattr(out, name)
                part = delta[first : first + own.shape[0]]
                part = part[:, : own.shape[1]] if own.ndim == 2 else part
                total = total + (part * own).sum()
            return total

        return value

    def evaluate(self, batch: Batch, objective: Objective) -> dict[str, Mean]:
        """Loss and metrics of a prepared batch without gradient, as (sum, weight)."""
        metrics: dict[str, Mean] = {}
        value = torch.zeros(())
        outs, parts = [], []
        for part, out in self.score(batch, objective.needs.outputs):
            outs.append(type(out)(**{k: None if v is None else v.cpu() for k, v in _fields(out)}))
            parts.append(part)
        if objective.needs.unit == "batch":
            # The loss couples the rows of all ranks; each computes it and reports its share.
            gathered = self.engine.gather((_join(outs, parts), _join_batches(batch, parts)))
            whole, _ = _concat_outputs([o for o, _ in gathered])
            found = objective.loss(whole, _concat_batches([b for _, b in gathered]))
            losses = [Loss(found.value / self.engine.world, found.metrics)]
        else:
            losses = [objective.loss(out, part) for out, part in zip(outs, parts, strict=True)]
        for loss in losses:
            value = value + loss.value.detach()
            for name, mean in loss.metrics.items():
                old = metrics.get(name)
                metrics[name] = (
                    mean if old is None else Mean(old.total + mean.total, old.weight + mean.weight)
                )
        return metrics | {"loss": Mean(value, torch.tensor(1.0))}

    def _reduce(self, loss: Tensor, metrics: dict[str, Mean]) -> Metrics:
        """Sums over ranks in one collective, then one transfer to Python."""
        names = sorted(metrics)
        flat = [
            loss.double().cpu(),
            *(x.double().cpu() for n in names for x in (metrics[n].total, metrics[n].weight)),
        ]
        values = (
            self.engine.sum(torch.stack(flat).float()).tolist()
            if self.engine.world > 1
            else torch.stack(flat).tolist()
        )
        result = {"loss": values[0]}
        for i, name in enumerate(names):
            if (
                values[2 + 2 * i] > 0
            ):  # a mean over nothing (no undesired answer in this step) is missing, not zero
                result[name] = values[1 + 2 * i] / values[2 + 2 * i]
        return result

    def state(self, folder: Path) -> dict[str, Any]:
        """Position, and trained weights with optimizer; every rank must call it. Sharded ones go to `folder`, each rank writing its own part."""
        own = {"step": self.step_index, "running": self.running}
        return own | self.engine.checkpoint(self.module, self.optimizer, folder)

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `state`, for any number of processes: shards are cut anew for this one's."""
        self.engine.restore(self.module, self.optimizer, state, folder)
        self.step_index = int(state["step"])
        self.running = dict(state["running"])


def _average(steps: Sequence[Metrics]) -> Metrics:
    """Metrics of the optimizer steps on one batch; one step is the usual case."""
    if len(steps) == 1:
        return steps[0]
    return {
        k: sum(m[k] for m in steps if k in m) / sum(k in m for m in steps)
        for k in dict.fromkeys(k for m in steps for k in m)
    }


def _fields(out: Any) -> list[tuple[str, Tensor | None]]:
    return [(name, getattr(out, name)) for name in out.__slots__]


def _stack(values: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors under each other, padded to the widest."""
    if values[0].ndim < 2:
        return torch.cat(list(values))
    width = max(v.shape[1] for v in values)
    return torch.cat([torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in values])


def _join(outs: Sequence[Any], parts: Sequence[Batch]) -> Any:
    """Outputs of all parts as one, rows in part order, without their graphs."""
    return type(outs[0])(
        **{
            name: _stack([getattr(o, name).detach().cpu() for o in outs])
            for name, first in _fields(outs[0])
            if first is not None
        }
    )


def _concat_outputs(outs: Sequence[Any]) -> tuple[Any, dict[str, Tensor]]:
    """Outputs of all ranks as one; its tensors are leaves that require grad."""
    leaves = {
        name: _stack([getattr(o, name) for o in outs]).requires_grad_()
        for name, first in _fields(outs[0])
        if first is not None
    }
    return type(outs[0])(**leaves), leaves


def _concat_batches(batches: Sequence[Batch]) -> Batch:
    """Batches of all ranks as one; counts over the optimizer step are the same on each."""
    if len(batches) == 1:
        return batches[0]

    def join(name: str, values: Sequence[Any]) -> Any:
        if name == "group_B":
            offsets = [sum(b.groups() for b in batches[:i]) for i in range(len(batches))]
            return torch.cat([v + offset for v, offset in zip(values, offsets, strict=True)])
        if name.endswith(("_BT", "_B", "_N")) and isinstance(values[0], Tensor):
            return _stack(values)
        return tuple(p for v in values for p in v) if name == "prompts_N" else values[0]

    joined = {f.name: join(f.name, [getattr(b, f.name) for b in batches]) for f in fields(Batch)}
    joined["extra"] = {name: join(name, [b.extra[name] for b in batches]) for name in batches[0].extra}
    return Batch(**joined)


def _join_batches(batch: Batch, parts: Sequence[Batch]) -> Batch:
    """The whole batch with its groups in the order of the parts."""
    key = {id(p): g for g, p in enumerate(batch.prompts_N)}
    return batch.select_groups([key[id(p)] for part in parts for p in part.prompts_N])
