"""The learner: owns the model and the optimizer, splits batches, back-propagates, steps."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch, Loss, Mean, Metrics, Needs, Objective, Outputs
from kilter.data.collate import collate
from kilter.models.critic import ActorCritic
from kilter.models.forward import Scorer
from kilter.models.microbatch import split
from kilter.models.packing import shared_tokens
from kilter.models.reference import ReferenceCache, logps_by_parts
from kilter.seams import LogProbs, Origin, ValueModel
from kilter.training.annotate import chosen
from kilter.training.balance import balance_weight
from kilter.training.config import TrainSpec
from kilter.training.join import (
    add,
    in_order_of,
    join_batches,
    join_leaves,
    join_outputs,
    level,
    nothing,
    present,
    stand_in,
)
from kilter.training.means import means, over_steps, share_of
from kilter.training.minibatches import Passes
from kilter.training.mismatch import mismatch
from kilter.training.optim import Rates, make_optimizer
from kilter.training.parallel.engine import Engine
from kilter.training.parallel.shards import rows_of
from kilter.training.prepare import prepared
from kilter.training.stale import drawn_by
from kilter.training.surrogate import Surrogate
from kilter.training.values import Values
from kilter.types import Encoded, Weights

log = logging.getLogger("kilter")

COUNTS = ("n_tokens_total", "n_rows_total", "n_groups_total")
"""Fields of a Batch that count over the optimizer step; those in `extra` end in _total as well."""


class LocalLearner:
    """Implements the Learner protocol in process, on one device or as one rank of several.

    `reference` gives the reference log-probs of every group that will be annotated. `temperature`: that of
    the rollouts; log-probs are taken at it.
    """

    def __init__(
        self,
        scorer: Scorer | ActorCritic,
        needs: Needs,
        spec: TrainSpec,
        total_steps: int,
        engine: Engine,
        reference: ReferenceCache | LogProbs | None = None,
        temperature: float = 1.0,
        origin: Origin = "own",
        critic: ValueModel | None = None,
    ) -> None:
        self.scorer, self.needs, self.spec = scorer, needs, spec
        self.engine, self.reference, self.temperature = engine, reference, temperature
        self.origin: Origin = origin
        self.critic = critic
        """Where a critic elsewhere is asked; one that is here is part of `scorer`."""
        self._values = None if critic is None else Values(critic, engine)
        self.ahead = False
        """Whether rollouts may be drawn by older weights than the present ones."""
        self.mismatch: Metrics = {}
        """Of the last batch: how far the sampling engine's log-probs are from the learner's."""
        self.amp = spec.dtype == "bfloat16"
        self.step_index = 0
        self.module: nn.Module = engine.wrap(scorer)
        self.rates = Rates(spec, needs, total_steps, scorer.critic is not None or critic is not None)
        # DeepSpeed wraps module and optimizer together.
        self.module, self.optimizer = engine.prepare(
            self.module, make_optimizer(self.module, spec, self.rates.peak)
        )
        self.minibatches = Passes(
            spec.inner_epochs or needs.inner_epochs, spec.minibatches, engine, self.count
        )
        self.steps_per_batch = self.minibatches.steps
        self.length_limit = spec.sampler.max_new_tokens
        self._told_twice = False
        self._updates = 0
        self.aux_weight = balance_weight(scorer.policy, spec)
        self.running: dict[str, Tensor] = {}
        """What the objective carries from step to step."""
        self._stand_in = stand_in()
        self.standing_in = False
        """Whether the present forward is of no row: it only keeps step with other ranks."""

    def collect(self, groups: Sequence[Encoded]) -> Batch:
        """The groups of this rank, maybe none, as a batch that has the same tensors on every rank."""
        batch = level(collate(groups), self.engine.gather)
        if not self.ahead:
            return batch
        return batch.with_extra(version_BT=drawn_by(groups, batch.tokens_BT.shape[1]))

    def score(self, batch: Batch, outputs: frozenset[str]) -> Iterator[tuple[Batch, Any]]:
        """Forward without gradient, micro-batch by micro-batch: (micro-batch, Outputs).

        Every rank must call it, also one without rows.
        """
        # Scoring is done without dropout, and leaves the module as it was.
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                parts = self._split(batch, outputs)
                for i in range(self.engine.max(len(parts))):
                    out = self._forward(parts, i, outputs)
                    if i < len(parts):
                        yield parts[i], out
        finally:
            self.module.train(training)

    def _forward(self, parts: Sequence[Batch], i: int, outputs: frozenset[str]) -> Outputs:
        """Outputs of micro-batch i; a rank with fewer forwards a stand-in, for collectives must match."""
        self.standing_in = i >= len(parts)
        part = self._stand_in if self.standing_in else parts[i]
        asked = outputs if self._values is None else outputs - {"values"}
        if "divergence" in outputs:
            self.scorer.policy.begin([part, *parts[i + 1 :]], self.amp)
        out: Outputs = self.module(part, asked, self.temperature, amp=self.amp)
        if self._values is None or "values" not in outputs:
            return out
        leaf = torch.zeros(part.tokens_BT.shape) if self.standing_in else self._values.leaf(part)
        return replace(out, values_BT=leaf)

    def _split(self, batch: Batch, outputs: frozenset[str]) -> list[Batch]:
        """Micro-batches by the tokens that the forward runs: with input embeddings it runs plain rows."""
        return split(
            batch, self.spec.tokens_per_microbatch, self.scorer.shared and "embeddings" not in outputs
        )

    def annotate(self, batch: Batch, needs: Needs) -> Batch:
        """Counts over all ranks, and what `needs` names; see annotate.py."""
        batch = self.count(batch).with_(state=self.running)
        # A step without a row on any rank has nothing to be told of.
        if not batch.n_groups_total:
            return batch
        for annotate in chosen(needs):
            batch = annotate(batch, self)
        if self.origin == "engine" and batch.sampling_logps_BT is not None:
            own_BT = batch.old_logps_BT
            if own_BT is None:
                own_BT = self.rows(batch, frozenset({"logps"}))["logps"]
            updates = self._updates if self.ahead else None
            self.mismatch = mismatch(batch, own_BT, self.engine, needs.opponent is not None, updates)
        return batch

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs of the reference, [B, T], nats."""
        assert self.reference is not None, "reference log-probs were not computed"
        found = self.reference.lookup(batch)
        assert found is not None, "a row of the batch is missing from the reference cache"
        return found

    def prepare(self, batch: Batch, objective: Objective) -> Batch:
        """The objective's credit and weights; baselines and whitening span all ranks."""
        return prepared(batch, objective, self.engine)

    def count(self, batch: Batch) -> Batch:
        """The counts of the optimizer step, over all ranks: the only denominators of a loss."""
        batch = batch.counted()
        # One collective for all counts.
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
        """Token outputs of a whole batch by the names in `outputs`, without gradient."""
        indexed = batch.with_(score_B=torch.arange(batch.rows()))
        found = {name: torch.zeros(batch.tokens_BT.shape) for name in outputs}
        if self.critic is not None and "values" in outputs:
            found["values"] = self.critic.values(batch)
            outputs = outputs - {"values"}
        for part, out in self.score(indexed, outputs):
            for name in outputs:
                value = getattr(out, f"{name}_BT").cpu()
                found[name][part.score_B, : value.shape[1]] = value
        return found

    def reference_rows(self, batch: Batch, scorer: Scorer, temperature: float, amp: bool) -> Tensor:
        """Log-probs of a whole batch under another model; what a LiveReference calls."""
        return logps_by_parts(batch, scorer, temperature, amp, self.spec.tokens_per_microbatch)

    def update(self, batch: Batch, objective: Objective, number: int) -> Metrics:
        """Takes the optimizer steps on a prepared batch. `number` is the step, which seeds their order."""
        # Each part is stepped on before the next one is cut: later passes see the weights of earlier ones.
        parts = self.minibatches(batch, f"{self.spec.seed}:{number}", objective)
        metrics = over_steps([self.step(part, objective) for part in parts])
        self._updates += 1
        return metrics

    @property
    def weights(self) -> Weights:
        """The policy as it is now: samplers name it by the number of batches that it has learned from."""
        return Weights(self._updates)

    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self.rates.policy(self.step_index)

    def step(self, batch: Batch, objective: Objective) -> Metrics:
        """One optimizer step on a prepared batch.

        Metrics: loss, grad_norm, learning_rate and the objective's own.
        """
        self.module.train()
        active = _active(batch)
        parts = self._split(active, objective.needs.outputs)

        # Collectives must match: every rank runs as many micro-batches as the rank with the most.
        rounds = self.engine.max(len(parts))
        if rounds == 0:
            # No group of any rank has a gradient: nothing is learned, and no moment of the optimizer moves.
            self.step_index += 1
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": self.learning_rate()}
        if self._values is not None:
            active = self._values.noted(active)
            parts = self._split(active, objective.needs.outputs)

        # A batch that is one micro-batch is the whole batch: its own graph serves, and no second forward is
        # needed.
        coupled = objective.needs.unit == "batch" and (rounds > 1 or self.engine.world > 1)
        surrogate = self._surrogate(active, parts, rounds, objective) if coupled else None
        total, metrics = self._backward(parts, rounds, objective, surrogate)
        if surrogate is not None:
            # Every rank computed the loss and the metrics of all ranks' rows: one of them reports.
            whole = surrogate.whole
            total = whole.value.detach() / self.engine.world
            metrics = whole.metrics if self.engine.is_main else {}
            self._carry(whole)
        return self._apply(total, metrics, active)

    def _backward(
        self, parts: Sequence[Batch], rounds: int, objective: Objective, surrogate: Surrogate | None
    ) -> tuple[Tensor, dict[str, Mean]]:
        """Sums the gradients of all micro-batches.

        Rounds beyond this rank's micro-batches only keep step with other ranks.

        Returns:
            This rank's share of the loss, and its metrics.
        """
        outputs = objective.needs.outputs | ({"aux_loss"} if self.aux_weight else set())
        total, metrics = torch.zeros(()), dict[str, Mean]()
        for i in range(rounds):
            with self.engine.accumulate(self.module, last=i == rounds - 1):
                with self._offloaded():
                    out = self._forward(parts, i, outputs)
                # A stand-in has no loss: an objective may not even be defined on it.
                if self.standing_in:
                    self.engine.backward(self.module, nothing(_on_cpu(out)))
                    continue
                loss = self._loss(_on_cpu(out), parts[i], i, objective, surrogate)
                loss = self._balanced(loss, out, parts[i])
                self.engine.backward(self.module, loss.value * self.engine.loss_scale)
            total = total + loss.value.detach()
            add(metrics, loss.metrics)
        return total, metrics

    def _loss(
        self, out: Outputs, part: Batch, index: int, objective: Objective, surrogate: Surrogate | None
    ) -> Loss:
        """What a micro-batch back-propagates."""
        if surrogate is not None:
            return Loss(surrogate(out, index))
        loss = objective.loss(out, part)
        if loss.state is not None:
            assert objective.needs.unit == "batch", "only objectives of unit 'batch' can carry state"
            self._carry(loss)
        return loss

    def _balanced(self, loss: Loss, out: Outputs, part: Batch) -> Loss:
        """The loss with its share of the load-balancing loss: a micro-batch counts by its rows."""
        if out.aux_loss is None:
            return loss
        value, rows = out.aux_loss.cpu(), torch.tensor(float(part.rows()))
        metrics = {**loss.metrics, "aux_loss": Mean(value.detach() * rows, rows)}
        share = self.aux_weight * rows / part.n_rows_total.clamp_min(1)
        return replace(loss, value=loss.value + share * value, metrics=metrics)

    def _carry(self, loss: Loss) -> None:
        """What the next step's batch is given."""
        self.running = {name: value.detach() for name, value in (loss.state or {}).items()}

    def _apply(self, total: Tensor, metrics: dict[str, Mean], batch: Batch) -> Metrics:
        """Clips, steps and counts the step; the gradients are there."""
        found = means(metrics | {"loss": share_of(total, self.engine)}, self.engine)
        result = {"loss": found.pop("loss")} | found | {"learning_rate": self.learning_rate()}
        finite, beside = math.isfinite(result["loss"]), 0.0
        # A critic elsewhere has an optimizer of its own, which steps or stays as this one does.
        if self._values is not None:
            beside = self._values.teach(batch, self.rates.critic(self.step_index), finite)
        norm = self.engine.update(
            self._clipped(),
            self.optimizer,
            self.spec.max_grad_norm,
            lambda: self.rates.put(self.optimizer, self.step_index),
            finite and math.isfinite(beside),
        )
        result["grad_norm"] = float(norm) if self._values is None else math.hypot(float(norm), beside)
        self.step_index += 1
        return result

    def _offloaded(self) -> contextlib.AbstractContextManager[Any]:
        """Around a forward: activations wait in host memory for the backward."""
        if not self.spec.activation_offloading:
            return contextlib.nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())

    def _clipped(self) -> list[nn.Module]:
        """Policy and critic are clipped apart: their gradients have no common scale."""
        critic = self.scorer.critic
        return [self.module] if critic is None else [self.scorer.policy, critic]

    def _surrogate(
        self, batch: Batch, parts: Sequence[Batch], rounds: int, objective: Objective
    ) -> Surrogate:
        """The whole batch forward without a graph, and the gradient of its loss on what came out."""
        self._tell_twice(parts)
        outs: list[Outputs] = []
        # In training mode, and with the same random numbers as in the backward's forward: adapters have a
        # dropout.
        random_state, cuda_state = torch.get_rng_state(), []
        if torch.cuda.is_available():
            cuda_state = torch.cuda.get_rng_state_all()
        with torch.no_grad():
            for i in range(rounds):
                out = self._forward(parts, i, objective.needs.outputs)
                outs += [out] if i < len(parts) else []
        torch.set_rng_state(random_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)
        return Surrogate(outs, parts, batch, objective, self.engine)

    def _tell_twice(self, parts: Sequence[Batch]) -> None:
        """Says once what a second forward costs, and how to be spared it."""
        if self._told_twice or len(parts) < 2 or not self.engine.is_main:
            return
        self._told_twice = True
        tokens = sum(shared_tokens(p, g, p.length_B.tolist()) for p in parts for g in range(p.groups()))
        log.info(
            "  this method reads the whole batch at once: its %d micro-batches go forward twice, "
            "a third more time; "
            "tokens_per_microbatch from %d up avoids that and takes more memory",
            len(parts),
            tokens,
        )

    def evaluate(self, batch: Batch, objective: Objective) -> dict[str, Mean]:
        """Loss and metrics of a prepared batch without gradient, as (sum, weight) of this rank."""
        outs, parts = [], []
        # Nothing keeps a graph here, so that all outputs fit at once.
        for part, out in self.score(batch, objective.needs.outputs):
            outs.append(Outputs(**{name: value.cpu() for name, value in present(out).items()}))
            parts.append(part)
        if objective.needs.unit == "batch":
            # The loss couples the rows of all ranks; each computes it, and one of them reports.
            share = (join_outputs(outs), in_order_of(parts, batch)) if outs else None
            shares = [s for s in self.engine.gather(share) if s is not None]
            whole, _ = join_leaves([o for o, _ in shares])
            losses = [objective.loss(whole, join_batches([b for _, b in shares]))] * self.engine.is_main
        else:
            losses = [objective.loss(out, part) for out, part in zip(outs, parts, strict=True)]
        value, metrics = torch.zeros(()), dict[str, Mean]()
        for loss in losses:
            value = value + loss.value.detach()
            add(metrics, loss.metrics)
        return metrics | {"loss": share_of(value, self.engine)}

    def means(self, metrics: dict[str, Mean]) -> Metrics:
        """Means over all ranks, by name."""
        return means(metrics, self.engine)

    def taught(self) -> dict[str, Tensor]:
        """Trained weights by name, a critic's among them wherever it lives.

        Every rank must call it; the first one gets them.
        """
        own = self.engine.state(self.module)
        return own if self._values is None else self._values.weights(own)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """The inverse of `taught`, each rank with all of them. The optimizer stays as it is."""
        own = weights if self._values is None else self._values.take(weights)
        target = dict(self.scorer.named_parameters())
        with torch.no_grad():
            for name, value in own.items():
                rows, first = rows_of(target[name])
                rows.copy_(value[first : first + len(rows)] if rows.ndim else value)

    def state(self, folder: Path) -> dict[str, Any]:
        """Position, and trained weights with optimizer; every rank must call it.

        Sharded ones go to `folder`, each rank writing its own part.
        """
        own = {"step": self.step_index, "updates": self._updates, "running": self.running}
        trained = self.engine.checkpoint(self.module, self.optimizer, folder)
        return own | (trained if self._values is None else self._values.state(trained))

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `state`, for any number of processes: shards are cut anew for this one's."""
        own = state if self._values is None else self._values.restore(state)
        self.engine.restore(self.module, self.optimizer, own, folder)
        self.step_index, self._updates = int(state["step"]), int(state["updates"])
        self.running = dict(state["running"])


def _active(batch: Batch) -> Batch:
    """The groups that have a gradient, maybe none."""
    active_N = batch.active_N
    if active_N is None or bool(active_N.all()):
        return batch
    return batch.select_groups(active_N.nonzero()[:, 0].tolist())


def _on_cpu(out: Outputs) -> Outputs:
    """Losses are computed on the CPU; embeddings stay where their second derivative is taken."""
    found = present(out)
    return Outputs(**{name: v if name == "embeddings_BLD" else v.cpu() for name, v in found.items()})
