"""What looks at an online step after it was taken: distance to the reference, monitors, gold evidence; and at the run when it ends."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kilter.batch import Batch
from kilter.errors import RunFailed
from kilter.models.reference import LiveReference
from kilter.runtime import peak_memory_gb
from kilter.seams import Step
from kilter.training.config import TrainSpec
from kilter.training.parallel.engine import Engine
from kilter.training.parts import Parts
from kilter.training.sources.rollouts import RolloutSource


def distance(
    batch: Batch, sampled: Tensor | None, opponent: bool, engine: Engine
) -> tuple[float, int] | None:
    """(mean of log pi_old / ref over the policy's own answers, nats; how many) over all ranks, None without both log-probs.

    `sampled`: log-probs that the sampler reported; they are kept for this even where the loss needs no old ones. Beside an
    opponent's answer only the policy's own, the first of the pair, says how far the policy is.
    """
    own = batch.old_logps_BT if batch.old_logps_BT is not None else sampled
    if batch.ref_logps_BT is None or own is None:
        return None
    mine_B = batch.first_B().float() if opponent else torch.ones(batch.rows())
    mine_B = mine_B * (
        batch.mask_BT.sum(-1) > 0
    )  # answers that are masked as a whole do not train and do not count
    width = batch.mask_BT.shape[1]
    gap = ((own[:, :width] - batch.ref_logps_BT) * batch.mask_BT * mine_B[:, None]).sum()
    pair = engine.sum(torch.stack([gap.float(), mine_B.sum()]))
    return float(pair[0] / pair[1].clamp_min(1)), int(pair[1])


def watch(
    parts: Parts,
    spec: TrainSpec,
    batch: Batch,
    sampled: Tensor | None,
    given: Step,
    record: dict[str, Any],
    engine: Engine,
    console: Console,
) -> dict[str, Any]:
    """Rollout metrics, KL controller, monitors and gold evidence of one step, for the metrics file."""
    source, monitors = parts.source, parts.monitors
    assert isinstance(source, RolloutSource)
    assert monitors is not None
    step = given.number
    found: dict[str, Any] = given.metrics | parts.learner.mismatch
    kl = distance(batch, sampled, source.answers.opposed, engine)
    if kl is not None:
        found["kl/sequence"] = kl[0]
        if parts.controller is not None:
            parts.controller.update(*kl)
            found["kl/coefficient"] = parts.controller.coefficient
    found["memory/peak_gb"] = peak_memory_gb()
    if parts.energy is not None and (energy := parts.energy.take()) is not None:
        found["energy_loss"] = energy
    before = len(monitors.log.events)
    found |= monitors.update(
        step, record | found, [g for share in engine.gather(given.sampled) for g in share]
    )
    refresh = spec.refresh_reference_every
    if refresh and step % refresh == 0 and isinstance(parts.learner.reference, LiveReference):
        parts.learner.reference.refresh()
    due = bool(engine.max(int(monitors.due(step))))
    if parts.gold is not None and (due or step == source.total_steps) and spec.monitors.enabled:
        found |= monitors.evidence(step, parts.gold(parts.history.first_answers()))
        parts.keep(step)
    if not console.is_terminal and engine.is_main:
        for event in monitors.log.events[before:]:
            console.print(
                f"  [{'red' if event.level == 'stop' else 'yellow'}]{event.level}[/] {event.line()}",
                highlight=False,
                soft_wrap=True,
            )
    return found


def conclude(
    source: RolloutSource, spec: TrainSpec, name: str, console: Console, engine: Engine, trained: bool
) -> None:
    """Says what was cut; raises RunFailed for a run in which not one step could be taken."""
    cut = ", ".join(f"{n} {what}" for what, n in source.encoder.counts.items() if "cut" in what)
    if cut and engine.is_main:
        console.print(
            f"  prompts: {cut} (max_length {spec.max_length} less {spec.sampler.max_new_tokens} for the answer)",
            highlight=False,
        )
    if not trained:
        cause = next(
            (f.rationale for g in source.last for f in g.feedback if f.score is None), "no group was usable"
        )
        raise RunFailed(
            f"{name}: not one step could be trained\n  cause: {cause}\n  fix: mend the feedback, then run the same command again"
        )
