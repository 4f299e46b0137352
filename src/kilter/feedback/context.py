"""What a source of feedback may need of the run around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.types import Group


@dataclass(frozen=True)
class Context:
    """The resources of a run that a source may need.

    model: resolves a stage or model name to a folder. policy: (Scorer, Encoder) or None. known: answers
    of the training data, on which rewards are normalised. gather: one value of every rank, in order.
    folder: where a source may keep what it paid for; None is nowhere. certificates: judge.json files of the
    run, beside the one that a judge's settings name.
    """

    model: Callable[[str], Path] = Path
    policy: Any = None
    max_length: int = 1024
    template: str = "auto"
    known: Sequence[Group] = ()
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    folder: Path | None = None
    certificates: Sequence[Path] = ()
