"""Metrics over optimizer steps and over all ranks: sums with weights, never an average of averages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kilter.batch import Mean, Metrics
from kilter.training.parallel.engine import Engine


def share_of(value: Tensor, engine: Engine) -> Mean:
    """A number whose shares of all ranks add up to it, such as a loss: its denominators span them."""
    return Mean(value, torch.tensor(1.0 / engine.world, dtype=torch.float64))


def means(metrics: dict[str, Mean], engine: Engine) -> Metrics:
    """Means over all ranks, by name. Ranks need not have the same names: an idle one has none.

    A mean over nothing (no undesired answer in this step) is missing, not zero.
    """
    # One transfer to Python and one collective; sums are taken in double precision, in order of rank.
    names = sorted(metrics)
    flat = [x.double().cpu() for n in names for x in (metrics[n].total, metrics[n].weight)]
    values = torch.stack(flat).tolist() if flat else []
    shares = engine.gather(dict(zip(names, zip(values[::2], values[1::2], strict=True), strict=True)))

    # The union of the names, each summed over the ranks that have it.
    result: Metrics = {}
    for name in sorted({name for share in shares for name in share}):
        total, weight = (sum(parts) for parts in zip(*(s[name] for s in shares if name in s), strict=True))
        if weight > 0:
            result[name] = total / weight
    return result


def over_steps(steps: Sequence[Metrics]) -> Metrics:
    """Metrics of the optimizer steps on one batch; one step is the usual case."""
    if len(steps) == 1:
        return steps[0]
    return {
        k: sum(m[k] for m in steps if k in m) / sum(k in m for m in steps)
        for k in dict.fromkeys(k for m in steps for k in m)
    }
