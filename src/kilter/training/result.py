"""Where a trained model is and how the training went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilter.batch import Metrics


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run: last step's metrics, held-out metrics, counts of data left out.

    stopped: why the monitors ended the run. best_step: the step whose model was kept for its gold score.
    tokens_per_second and step_seconds: of all optimizer steps. peak_memory_gb: of this process so far.
    """

    model: Path
    steps: int
    metrics: Metrics
    heldout: Metrics
    counts: Counter[str]
    seconds: float
    stopped: str | None = None
    best_step: int | None = None
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    peak_memory_gb: float | None = None
