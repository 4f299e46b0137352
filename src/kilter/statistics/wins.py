"""Win rates: as they are, and at equal length or style."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from kilter.statistics.clustered import clustered
from kilter.statistics.estimates import LEVEL, Array, Estimate
from kilter.statistics.floors import CLUSTERS, UNBOUNDED

OVERLAP = 0.1
"""Share of prompts on which either side must have more of a feature. Beyond it, equality is extrapolated."""


def win_rate(
    outcomes: Sequence[float | None],
    seed: int = 0,
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    **extra: Any,
) -> Estimate:
    """Mean of outcomes, one per prompt: 1 a win, 0 a loss, 1/2 a tie.

    The method has the counts of wins, ties and losses.
    """
    known = [w for w in outcomes if w is not None]
    estimate = clustered(outcomes, clusters, seed=seed, **extra)
    counts = f"W/T/L {known.count(1.0)}/{known.count(0.5)}/{known.count(0.0)}"
    return replace(estimate, method=f"{counts}, {estimate.method}")


def length_controlled_win_rate(
    outcomes: Sequence[float | None],
    length_differences: Sequence[float | None],
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    **extra: Any,
) -> Estimate:
    """What the win rate would be if both answers were equally long (Dubois et al. 2024).

        logit P(win) = a + b tanh(difference / its standard deviation), read where the difference is 0

    Args:
        outcomes: [n] 1 a win, 0 a loss, 1/2 a tie, or a probability between; None is unscored.
        length_differences: [n] tokens of the candidate's answer less those of the baseline's.
        clusters: [n], which prompts belong together.
    """
    return style_controlled_win_rate(outcomes, {"length": length_differences}, clusters, **extra)


def style_controlled_win_rate(
    outcomes: Sequence[float | None],
    differences: Mapping[str, Sequence[float | None]],
    clusters: Sequence[Any] | npt.ArrayLike | None = None,
    ratios: Mapping[str, Sequence[float | None]] | None = None,
    prompts: Mapping[str, Sequence[float | None]] | None = None,
    **extra: Any,
) -> Estimate:
    """The win rate where both answers have as much of each feature, such as length, lists or bold words.

    Args:
        outcomes: as in `length_controlled_win_rate`.
        differences: feature -> [n] candidate less baseline, read as tanh of standard deviations; a feature in
            which nothing differs says nothing.
        clusters: [n], which prompts belong together.
        ratios: feature -> [n] differences that are bounded already, read in standard deviations.
        prompts: feature -> [n] of the prompts alone, such as their difficulty, read from its mean on.

    Returns:
        No value where one side nearly always has more of a feature: the method then begins `not_identified`.
        The method tells the weight of each feature, as log-odds of a win: they are the biases of who decided.
    """
    y = np.array(outcomes, dtype=float)
    ratios, prompts = ratios or {}, prompts or {}
    named = {**differences, **ratios, **prompts}
    x = np.array([list(d) for d in named.values()], dtype=float).reshape(len(named), -1).T
    known = np.isfinite(y) & np.isfinite(x).all(1)
    names = np.arange(len(y)) if clusters is None else np.asarray(clusters)
    _, groups = np.unique(names[known], return_inverse=True)
    y, x, count = y[known], x[known], int(known.sum())
    held = int(groups.max()) + 1 if count else 0
    fewest = CLUSTERS if held < count else UNBOUNDED
    facts = {"n": count, "n_unscored": int((~known).sum()), "n_clusters": held, "fewest": fewest, **extra}
    if held < UNBOUNDED:
        return Estimate(None, **facts, method=f"{held} prompts are below {UNBOUNDED}: no controlled win rate")

    # Where one side always has more, what would be at equality is a guess of the model alone.
    for name, column in zip(named, x.T, strict=True):
        longer, shorter = float((column > 0).mean()), float((column < 0).mean())
        # Answers that are equal in a ratio, as most are in headers, show what is at equality.
        equal = 1 - longer - shorter if name in ratios else 0.0
        if name not in prompts and column.any() and min(longer, shorter) + equal < OVERLAP:
            share = f"the candidate has more {name} in {longer:.0%} of the prompts and less in {shorter:.0%}"
            return Estimate(None, **facts, method=f"not_identified: {share}")
    x = x - np.where([name in prompts for name in named], x.mean(0), 0.0)
    kept = [name for name, some in zip(named, x.any(0), strict=True) if some]
    x = x[:, x.any(0)] / x[:, x.any(0)].std(0)
    x = np.where([name in differences for name in kept], np.tanh(x), x)
    (low, value, high), weights = _at_equality(y, x, groups)
    told = ", ".join(f"{name} {weight:+.2f}" for name, weight in zip(kept, weights, strict=True))
    method = "logistic at equal style, clustered" + (f"; log-odds: {told}" if told else "")
    return Estimate(value, ci_low=low, ci_high=high, method=method, **facts)


def _at_equality(
    y: Array, x: Array, groups: npt.NDArray[np.intp]
) -> tuple[tuple[float, float, float], Array]:
    """(lower bound, estimate, upper bound) of the share of wins where all features are 0; their weights."""
    import statsmodels.api as sm

    # One imagined win and one loss at either side of each feature keep what separates the data finite.
    sides = np.vstack([np.zeros((1, x.shape[1])), np.eye(x.shape[1]), -np.eye(x.shape[1])])
    imagined = np.repeat(sides, 2, axis=0)
    weights = np.concatenate([np.ones(len(y)), np.full(len(imagined), 1 / len(sides))])
    wins = np.concatenate([y, np.tile([1.0, 0.0], len(sides))])
    design = np.column_stack([np.ones(len(wins)), np.vstack([x, imagined])])
    own = np.concatenate([groups, groups.max() + 1 + np.arange(len(imagined))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fractional outcomes, which are meant
        fit = sm.GLM(wins, design, family=sm.families.Binomial(), var_weights=weights).fit(
            cov_type="cluster", cov_kwds={"groups": own}
        )
    middle, error = float(fit.params[0]), math.sqrt(float(fit.cov_params()[0, 0]))
    degrees = max(1, len(np.unique(groups)) - design.shape[1])
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    low, value, high = (float(special.expit(v)) for v in (middle - half, middle, middle + half))
    return (low, value, high), np.asarray(fit.params[1:])
