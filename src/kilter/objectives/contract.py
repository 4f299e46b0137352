"""The contract of a method, as checks that run on any method.

The test suite runs them on every registered objective. `kilter check-method my_file.py:MyLoss` runs
them on one from outside. Each check takes a method and raises ContractError with its finding. The
checks use random float64 tensors, and load no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kilter.batch import Batch, Loss, Objective, Outputs, joint_moments, moments
from kilter.errors import UserError
from kilter.objectives.knobs import Knob, inside, knobs
from kilter.objectives.registry import build_objective

ANNOTATIONS = ("ref_logps_BT", "old_logps_BT", "old_values_BT", "sampling_logps_BT")
EXTRA = ("mismatched_kl", "greedy_score_N", "length_limit")
"""Annotations that stand in Batch.extra."""

FIELDS = {
    "logps": "logps_BT",
    "scores": "scores_B",
    "values": "values_BT",
    "entropy": "entropy_BT",
    "collision": "collision_BT",
    "divergence": "divergence_BT",
    "embeddings": "embeddings_BLD",
}
"""Names in Needs.outputs, and the fields of Outputs that they fill."""

CREDIT = ("advantage_BT", "return_BT", "weight_BT", "group_weight_N", "active_N")
"""What `prepare` writes."""

GROUPS = 5


class ContractError(AssertionError):
    """What a method does that the loop cannot work with; the message says what to change."""


def _require(good: bool, problem: str) -> None:
    if not good:
        raise ContractError(problem)


def _answers(objective: Objective, groups: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Answers per group, and their scores: best first for pairs and rankings."""
    shape = objective.needs.shape
    if shape == "ranked":
        counts = torch.tensor([3, 2, 4, 2, 3] * groups)[:groups]
        return counts, torch.cat([torch.arange(int(c), 0, -1) / 2.0 for c in counts])
    size = 2 if objective.needs.unit == "group" or shape == "pairs" else 3 if shape == "rollouts" else 1
    rows = groups * size
    scores = {
        "rollouts": lambda: torch.randn(rows, generator=g),
        "pairs": lambda: torch.tensor([1.0, 0.0] * groups),
    }
    # Single answers are good and bad in turn, where the method learns from both.
    score = scores.get(shape, lambda: (torch.arange(rows) % 2 * max(objective.needs.labels)).float())()
    return torch.full((groups,), size), score


def example(objective: Objective, seed: int = 0, groups: int = GROUPS) -> tuple[Batch, dict[str, Tensor]]:
    """A random prepared batch of the shape that the method wants, and raw tensors for `outputs`."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.float64
    shape = objective.needs.shape
    counts, score = _answers(objective, groups, g)
    rows = int(counts.sum())
    length = torch.randint(2, 7, (rows,), generator=g)
    width = int(length.max())
    mask = (torch.arange(width)[None] < length[:, None]).to(kind)
    one = torch.ones((), dtype=kind)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, dtype=kind)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=kind)

    batch = Batch(
        prompts_N=tuple(torch.ones(2, dtype=torch.long) for _ in range(groups)),
        tokens_BT=torch.zeros(rows, width, dtype=torch.long),
        mask_BT=mask,
        length_B=length,
        group_B=torch.arange(groups).repeat_interleave(counts),
        score_B=score,
        margin_N=uniform(groups),
        n_tokens_total=one,
        n_rows_total=one,
        n_groups_total=one,
        extra={"mismatched_kl": one * 0.7},
        ref_logps_BT=-uniform(rows, width) * mask,
    ).counted()
    raw = {
        "logps": -uniform(rows, width),
        "scores": normal(rows),
        "values": normal(rows, width),
        "entropy": uniform(rows, width),
        "collision": -uniform(rows, width),
        "divergence": uniform(rows, width),
        "embeddings": uniform(rows, width, 3),
    }
    if shape == "rollouts":
        # Off-policy: old log-probs and values lie near the present ones, so that clips act on some tokens.
        batch = batch.with_(
            old_logps_BT=(raw["logps"] + 0.2 * normal(rows, width)) * mask,
            truncated_B=torch.zeros(rows),
            old_values_BT=(raw["values"] + 0.2 * normal(rows, width)) * mask,
        ).with_extra(greedy_score_N=normal(groups), length_limit=torch.tensor(7))
    return objective.prepare(batch), raw


def outputs(objective: Objective, raw: Mapping[str, Tensor]) -> Outputs:
    """Exactly the outputs that the method asked for.

    With embeddings, log-probs are a smooth function of the row's own.
    """
    named = dict(raw)
    if "embeddings" in objective.needs.outputs:
        e = (
            raw["embeddings"]
            if raw["embeddings"].requires_grad
            else raw["embeddings"].clone().requires_grad_()
        )
        named |= {"embeddings": e, "logps": raw["logps"] - (e.square().sum(-1) + e.sin().prod(-1))}
    return Outputs(
        **{field: named[name] for name, field in FIELDS.items() if name in objective.needs.outputs}
    )


def leaf_name(objective: Objective) -> str:
    """The output whose gradient carries the method's signal."""
    return next(
        n for n in ("embeddings", "divergence", "logps", "scores", "values") if n in objective.needs.outputs
    )


def cut(raw: Mapping[str, Tensor], batch: Batch, part: list[int]) -> dict[str, Tensor]:
    """The raw tensors of these groups, as `Batch.select_groups` cuts the batch."""
    keep = torch.cat([(batch.group_B == i).nonzero()[:, 0] for i in part])
    width = int(batch.length_B[keep].max())
    return {k: v[keep, :width] if v.ndim > 1 else v[keep] for k, v in raw.items()}


def _loss(objective: Objective, raw: Mapping[str, Tensor], batch: Batch) -> Loss:
    return objective.loss(outputs(objective, raw), batch)


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


# The checks.


def documented(objective: Objective) -> None:
    """A frozen dataclass whose docstring holds a formula and a source, and whose fields are all explained."""
    _require(
        dataclasses.is_dataclass(objective),
        "is not a dataclass: write @dataclass(frozen=True) above the class",
    )
    frozen = getattr(type(objective), "__dataclass_params__", None)
    _require(
        frozen is not None and frozen.frozen,
        "can be changed after it was made: write @dataclass(frozen=True)",
    )
    text = type(objective).__doc__ or ""
    _require("L = " in text, "its docstring holds no formula: write a line with 'L = ...'")
    _require("Paper" in text, "its docstring names no source: write 'Paper: authors, year, title'")
    for k in knobs(objective):
        _require(
            bool(k.meaning) or k.name in text,
            f"field {k.name!r} is not explained: use knob(default, meaning, interval)",
        )


def ranges_hold(objective: Objective) -> None:
    """Values outside a knob's interval, and unknown choices, are refused with UserError."""
    for k in knobs(objective):
        for bad in _outside(k):
            try:
                dataclasses.replace(objective, **{k.name: bad})  # type: ignore[type-var]
            except UserError:
                continue
            raise ContractError(
                f"{k.name} = {bad!r} lies outside {k.interval or k.choices} and is accepted: "
                "call check(self) in __post_init__"
            )


def _outside(k: Knob) -> list[Any]:
    if k.choices:
        return ["no such choice"]
    return [v for v in (-1e9, -1.0, -1e-9, 0.0, 0.5, 1.0, 1e9) if k.interval and not inside(v, k.interval)]


def same_from_its_fields(objective: Objective) -> None:
    """Its fields are its whole configuration: the same fields make an equal object."""
    names = [f.name for f in dataclasses.fields(objective)]  # type: ignore[arg-type]
    fields = {name: getattr(objective, name) for name in names}
    _require(type(objective)(**fields) == objective, "two objects with the same fields are not equal")


def microbatches_add_up(objective: Objective) -> None:
    """The losses of a batch's parts add up to the loss of the whole, and so do metrics.

    A loss over the whole batch does not grow with it.
    """
    batch, raw = example(objective)
    whole = _loss(objective, raw, batch)
    if objective.needs.unit == "batch":
        order = [*range(GROUPS)] * 2
        twice = objective.prepare(batch.select_groups(order).counted())
        doubled = _loss(objective, cut(raw, batch, order), twice).value
        _require(
            _same(doubled, whole.value, 1e-9),
            f"the loss is {float(whole.value):.6g}, and {float(doubled):.6g} for a batch "
            "that holds every group twice: take means over the batch",
        )
        return
    for size in (1, 2, 4):
        parts = [list(range(i, min(i + size, GROUPS))) for i in range(0, GROUPS, size)]
        losses = [_loss(objective, cut(raw, batch, p), batch.select_groups(p)) for p in parts]
        total, wanted = torch.stack([x.value.detach() for x in losses]).sum(), whole.value.detach()
        _require(
            _same(total, wanted, 1e-10),
            f"micro-batches of {size} groups sum to {float(total):.6g}, the whole is {float(wanted):.6g}: "
            "divide by batch.n_*_total only, or declare unit 'batch'",
        )
        for name, metric in whole.metrics.items():
            value = sum(float(x.metrics[name].total) for x in losses) / max(
                sum(float(x.metrics[name].weight) for x in losses), 1e-12
            )
            _require(
                abs(value - float(metric.total / metric.weight.clamp_min(1e-12))) < 1e-5,
                f"metric {name!r} depends on the micro-batches: report (sum, weight)",
            )


def metrics_are_declared(objective: Objective) -> None:
    """It reports what it names, so that a run that asks for another name is refused before it begins."""
    batch, raw = example(objective)
    found = {name for name, mean in _loss(objective, raw, batch).metrics.items() if float(mean.weight) > 0}
    named = objective.needs.metrics
    _require(not found - named, f"reports {sorted(found - named)}: name it in Needs.metrics")
    _require(not named - found, f"names {sorted(named - found)} in Needs.metrics and does not report it")


def ranks_prepare_alike(objective: Objective) -> None:
    """Credit of a part equals that of the whole, given the moments of the whole that the method declares."""
    declared = objective.needs.moments
    if objective.needs.shape != "rollouts" or declared is None:
        return
    batch, _ = example(objective)
    for part in ([0, 3], [1, 2, 4]):
        own = batch.select_groups(part)
        others = batch.select_groups([g for g in range(GROUPS) if g not in part])
        over = {
            f"moments/{name}": joint_moments([moments(values(own)), moments(values(others))])
            for name, values in declared.items()
        }
        alone, wanted = objective.prepare(own.with_extra(**over)), batch.select_groups(part)
        for name in CREDIT:
            found, whole = getattr(alone, name), getattr(wanted, name)
            alike = whole is found is None or (found is not None and _same(found, whole, 1e-9))
            _require(
                alike,
                f"{name} of a part of the batch is another than in the whole: "
                "name in Needs.moments what prepare reads of other groups, or leave it None",
            )


def order_does_not_matter(objective: Objective) -> None:
    """Permuting the groups changes nothing."""
    batch, raw = example(objective)
    order = [3, 0, 4, 1, 2]
    moved = _loss(objective, cut(raw, batch, order), batch.select_groups(order)).value
    _require(
        _same(moved, _loss(objective, raw, batch).value, 1e-10), "the loss depends on the order of the groups"
    )


def padding_does_not_matter(objective: Objective) -> None:
    """Values behind a completion's end are never read, not even NaN."""
    batch, raw = example(objective)
    off = batch.mask_BT == 0
    clean = _loss(objective, raw, batch).value
    dirty = {k: v.masked_fill(off, float("nan")) if v.shape == off.shape else v for k, v in raw.items()}
    if "embeddings" in objective.needs.outputs:
        dirty = dict(raw)
    changed = {}
    for name in ANNOTATIONS:
        value = getattr(batch, name)
        if value is not None:
            changed[name] = value.masked_fill(off, 9.0)
    value = _loss(objective, dirty, batch.with_(**changed)).value
    _require(
        _same(value, clean, 1e-9), "the loss reads padding: use masked(values, batch.mask_BT) before any sum"
    )


def padding_gets_no_gradient(objective: Objective) -> None:
    """Tokens behind the end do not train; tokens before it do."""
    batch, raw = example(objective)
    leaves = {
        n: raw[n].clone().requires_grad_()
        for n in ("logps", "values", "scores", "divergence", "embeddings")
        if n in objective.needs.outputs
    }
    loss = _loss(objective, raw | leaves, batch)
    loss.value.backward()  # type: ignore[no-untyped-call]
    moved = False
    for name, leaf in leaves.items():
        if leaf.grad is None:
            continue
        moved = moved or bool(leaf.grad.abs().max() > 0)
        if leaf.ndim >= 2:
            _require(
                bool((leaf.grad[batch.mask_BT == 0] == 0).all()), f"padding gets a gradient through {name}"
            )
    _require(moved, "no output gets a gradient")


def needs_are_honoured(objective: Objective) -> None:
    """It runs with exactly the outputs and annotations that it named."""
    batch, raw = example(objective)
    named = {f"{a}_BT" for a in objective.needs.annotations}
    changes: dict[str, Any] = {n: None for n in ANNOTATIONS if n not in named}
    unasked = {name for name in EXTRA if name.removesuffix("_N") not in objective.needs.annotations}
    changes["extra"] = {name: value for name, value in batch.extra.items() if name not in unasked}
    try:
        value = _loss(objective, raw, batch.with_(**changes)).value
    except Exception as error:
        raise ContractError(
            f"fails with what it asked for ({type(error).__name__}: {error}): name what it reads in needs"
        ) from error
    _require(bool(torch.isfinite(value)), "the loss is not finite on ordinary inputs")
    _require(value.ndim == 0, f"the loss has shape {tuple(value.shape)}, not a single number")


def gradient_is_the_slope(objective: Objective) -> None:
    """The gradient equals finite differences.

    If the class says `detaches = True` (a stop-gradient in the loss), it is finite and not zero.
    """
    batch, raw = example(objective)
    name = leaf_name(objective)
    leaf = raw[name].clone().requires_grad_()
    _loss(objective, raw | {name: leaf}, batch).value.backward()  # type: ignore[no-untyped-call]
    _require(leaf.grad is not None, f"no gradient reaches {name}")
    assert leaf.grad is not None
    if getattr(type(objective), "detaches", False):
        trained = leaf.grad[batch.mask_BT > 0] if leaf.ndim >= 2 else leaf.grad
        _require(bool(trained.isfinite().all()), f"the gradient of {name} is not finite")
        _require(
            bool((trained != 0).any()),
            f"the gradient of {name} is zero everywhere: the stop-gradient covers the whole loss",
        )
        return
    index = tuple(int(i) for i in (batch.mask_BT > 0).nonzero()[3])[: leaf.ndim] + (0,) * max(
        0, leaf.ndim - 2
    )
    step = 1e-6
    values = []
    for sign in (step, -step):
        moved = raw[name].clone()
        moved[index] += sign
        values.append(
            _loss(objective, raw | {name: moved.requires_grad_(name == "embeddings")}, batch).value.detach()
        )
    slope = (values[0] - values[1]) / (2 * step)
    _require(
        torch.allclose(leaf.grad[index], slope, atol=1e-7, rtol=1e-5),
        f"gradient {float(leaf.grad[index]):.6g} is not the slope {float(slope):.6g}; "
        "if that is meant, write `detaches = True` on the class",
    )


CHECKS: dict[str, Callable[[Objective], None]] = {
    f.__name__: f
    for f in (
        documented,
        ranges_hold,
        same_from_its_fields,
        needs_are_honoured,
        microbatches_add_up,
        metrics_are_declared,
        ranks_prepare_alike,
        order_does_not_matter,
        padding_does_not_matter,
        padding_gets_no_gradient,
        gradient_is_the_slope,
    )
}


def run_contract(config: str | Mapping[str, Any]) -> list[tuple[str, str]]:
    """(check, problem) for every check, the problem empty where it passed.

    Raises UserError where the method cannot be built.
    """
    objective = build_objective(config)
    found = []
    for name, check in CHECKS.items():
        problem = ""
        try:
            check(objective)
        except ContractError as error:
            problem = str(error)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
        found.append((name, problem))
    return found
