"""Agreement beyond chance: kappa, AC1 and alpha, with a bootstrap over clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.statistics.estimates import LEVEL, Estimate
from kilter.statistics.shares import wilson_bounds

Array = npt.NDArray[np.float64]
DRAWS = 1000
"""Resamples of clusters behind an interval."""


def cohen_kappa(
    first: npt.ArrayLike, second: npt.ArrayLike, clusters: npt.ArrayLike | None = None, seed: int = 0
) -> Estimate:
    """Agreement of two raters on nominal labels, beyond what their own habits would give.

    Args:
        first: [n] labels as numbers, NaN is unscored.
        second: [n], the same of the other rater.
        clusters: [n], which items are resampled together; None: each by itself.
        seed: of the bootstrap.
    """
    return _agreement(first, second, clusters, seed, _cohen_chance, "Cohen's kappa")


def gwet_ac1(
    first: npt.ArrayLike, second: npt.ArrayLike, clusters: npt.ArrayLike | None = None, seed: int = 0
) -> Estimate:
    """Agreement of two raters, with a chance that does not grow where one label is rare (Gwet 2008).

    Args as those of `cohen_kappa`.
    """
    return _agreement(first, second, clusters, seed, _gwet_chance, "Gwet's AC1")


def krippendorff_alpha(ratings: npt.ArrayLike, seed: int = 0) -> Estimate:
    """Agreement of any number of raters on nominal labels, some of which may be missing.

    Args:
        ratings: [raters, units] labels as numbers, NaN is missing.
        seed: of the bootstrap over units.
    """
    import krippendorff

    given = np.asarray(ratings, dtype=float)
    values, codes = np.unique(given[np.isfinite(given)], return_inverse=True)
    counts = np.zeros((given.shape[1], len(values)))
    np.add.at(counts, (np.nonzero(np.isfinite(given))[1], codes), 1)
    counts = counts[counts.sum(1) >= 2]
    lost = given.shape[1] - len(counts)
    if len(counts) < 2 or (counts.sum(0) > 0).sum() < 2:
        why = (
            "all ratings are the same, undefined"
            if len(counts) > 1
            else "fewer than two units are rated twice"
        )
        return Estimate(None, len(counts), lost, len(counts), method=f"Krippendorff's alpha: {why}")

    def alpha(table: Array) -> float:
        varied = (table.sum(0) > 0).sum() > 1
        return (
            float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal")) if varied else 1.0
        )

    rng = np.random.default_rng(seed)
    draws = [alpha(counts[rng.integers(0, len(counts), len(counts))]) for _ in range(DRAWS)]
    low, high = _percentiles(np.array(draws))
    return Estimate(
        alpha(counts), len(counts), lost, len(counts), low, high, "Krippendorff's alpha, bootstrap", seed
    )


def _cohen_chance(tables: Array) -> Array:
    """[..., k, k] shares -> agreement that the raters' own shares of labels would give."""
    chance: Array = (tables.sum(-1) * tables.sum(-2)).sum(-1)
    return chance


def _gwet_chance(tables: Array) -> Array:
    """[..., k, k] shares -> agreement by chance, from the mean share of each label."""
    share = (tables.sum(-1) + tables.sum(-2)) / 2
    chance: Array = (share * (1 - share)).sum(-1) / max(1, tables.shape[-1] - 1)
    return chance


def _agreement(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    seed: int,
    chance: Callable[[Array], Array],
    name: str,
) -> Estimate:
    """The coefficient with a percentile interval over resampled clusters."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    n, lost = int(known.sum()), int((~known).sum())
    if n == 0:
        return Estimate(None, 0, lost, method=f"{name}: nothing is scored by both")

    # One table of counts per cluster: a resample is then a weighted sum of tables.
    labels, codes = np.unique(np.concatenate([a[known], b[known]]), return_inverse=True)
    names = np.arange(len(a)) if clusters is None else np.asarray(clusters)
    _, index = np.unique(names[known], return_inverse=True)
    count, k = int(index.max()) + 1, len(labels)
    tables = np.zeros((count, k, k))
    np.add.at(tables, (index, codes[:n], codes[n:]), 1)
    value = float(_coefficient(tables.sum(0), chance))
    if not np.isfinite(value):
        return Estimate(None, n, lost, count, method=f"{name}: one label alone, undefined")

    # Perfect agreement has no bootstrap: its lower bound is that of the share of agreements.
    if value == 1.0:
        expected = float(chance(tables.sum(0) / n))
        low = (wilson_bounds(count, count)[0] - expected) / (1 - expected)
        return Estimate(value, n, lost, count, low, 1.0, f"{name}, Wilson (constant)", seed)
    if count < 2:
        return Estimate(value, n, lost, count, method=f"{name}: one cluster, no interval")
    # Clusters with the same table are interchangeable: a draw says how many of each kind there are.
    kinds, often = np.unique(tables.reshape(count, k * k), axis=0, return_counts=True)
    weights = np.random.default_rng(seed).multinomial(count, often / count, size=DRAWS)
    drawn = _coefficient((weights @ kinds).reshape(DRAWS, k, k), chance)
    low, high = _percentiles(drawn[np.isfinite(drawn)])
    if low < high:
        return Estimate(value, n, lost, count, low, high, f"{name}, bootstrap over clusters", seed)

    # Draws that are all alike have no spread: the bounds are those of the share of agreements.
    expected = float(chance(tables.sum(0) / n))
    agreed = round(float(np.trace(tables.sum(0))) / n * count)
    low, high = (max(-1.0, (b - expected) / (1 - expected)) for b in wilson_bounds(agreed, count))
    return Estimate(value, n, lost, count, low, high, f"{name}, Wilson (constant)", seed)


def _coefficient(tables: Array, chance: Callable[[Array], Array]) -> Any:
    """(agreement - chance) / (1 - chance) of each table of counts; NaN where chance alone would agree."""
    shares = tables / tables.sum((-2, -1), keepdims=True)
    expected = chance(shares)
    seen = np.trace(shares, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected < 1, (seen - expected) / (1 - expected), np.nan)


def _percentiles(draws: Sequence[float] | Array) -> tuple[float, float]:
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
