"""Every measured quantity is an Estimate: value, n, unscored, clusters, interval and method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = Sequence[float | None] | npt.ArrayLike
LEVEL = 0.95
RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured quantity.

    CI bounds are None when n is too small to say anything. `higher_is_better` may be unknown. `fewest` is the
    number of independent observations (clusters) below which no gate should decide by the interval.
    """

    value: float | None
    n: int
    n_unscored: int = 0
    n_clusters: int = 0
    ci_low: float | None = None
    ci_high: float | None = None
    method: str = ""
    seed: int = 0
    judge: str = ""
    data_hash: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    fewest: int = 0

    def to_json(self) -> dict[str, Any]:
        """The estimate as a dict of plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is scored, and which of it belongs together.

    Args:
        values: [n] finite.
        index: [n] number of the cluster of each value.
        clusters: how many there are.
        unscored: values that were None or not finite.
    """

    values: Array
    index: npt.NDArray[np.intp]
    clusters: int
    unscored: int

    @property
    def n(self) -> int:
        """Scored values."""
        return len(self.values)

    @property
    def size(self) -> float:
        """Mean number of values in a cluster."""
        return self.n / self.clusters

    def means(self) -> Array:
        """[clusters] the mean plus what each cluster adds to it: their mean is that of all values."""
        value = float(self.values.mean())
        totals = np.bincount(self.index, weights=self.values - value, minlength=self.clusters)
        linear: Array = value + totals / self.size
        return linear


def sample(values: Values, clusters: Sequence[Any] | npt.ArrayLike | None = None) -> Sample:
    """The scored values. A cluster without any says nothing, and is not counted.

    Args:
        values: [n], None or NaN is unscored.
        clusters: [n] names; None: each value stands for itself.
    """
    given = np.array(values, dtype=float).ravel()
    known = np.isfinite(given)
    names = np.arange(len(given)) if clusters is None else np.asarray(clusters).ravel()
    if len(names) != len(given):
        raise ValueError(f"{len(given)} values have {len(names)} names of clusters")
    found, index = np.unique(names[known], return_inverse=True)
    return Sample(given[known], index, len(found), int((~known).sum()))


def finite(values: Sequence[float | None]) -> list[float]:
    """Those that are scored."""
    return [float(v) for v in values if v is not None and math.isfinite(v)]
