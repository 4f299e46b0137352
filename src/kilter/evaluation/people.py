"""What people said of some answers: a small sample that takes the errors of an instrument out of a rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilter.artifacts import read_lines
from kilter.errors import UserError
from kilter.evaluation.response.reading import question
from kilter.statistics import Estimate, prediction_powered
from kilter.types import Answered

FEWEST = 15
"""Answers that people labelled, below which a rate is not corrected by them."""

Key = tuple[str, str, str]
"""Metric, question and answer, white space normalised."""


class Said(BaseModel):
    """One row of the file."""

    model_config = ConfigDict(extra="ignore")
    metric: str = Field(min_length=1, description="name of the metric, such as refusal")
    prompt: str = Field(description="what was asked: the last user turn")
    answer: str = Field(description="the whole answer")
    value: float = Field(ge=0, le=1, description="what the metric should have been: 1 yes, 0 no")


def read_people(files: Sequence[str | Path], where: str = "people") -> dict[Key, float]:
    """What people said, by metric, question and answer; several of them are averaged.

    Raises:
        UserError: a file is missing, or a row lacks a field.
    """
    found: dict[Key, list[float]] = {}
    for path in files:
        if not Path(path).is_file():
            raise UserError(where, str(path), "names no file", "give a file of JSON lines")
        for number, row in enumerate(read_lines(Path(path)), start=1):
            try:
                said = Said.model_validate(row)
            except ValidationError as error:
                first = error.errors()[0]
                problem = f"lacks a usable {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}"
                fix = 'write {"metric": "refusal", "prompt": ..., "answer": ..., "value": 1} in each line'
                raise UserError(where, f"{path}:{number}", problem, fix) from error
            found.setdefault(_key(said.metric, said.prompt, said.answer), []).append(said.value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def labels(metric: str, items: Sequence[Answered], known: Mapping[Key, float]) -> list[float | None]:
    """What people said of each prompt's first answer; empty where they labelled too few of them."""
    if not known:
        return []
    found = [
        known.get(_key(metric, question(item.prompt), item.answers[0].text)) if item.answers else None
        for item in items
    ]
    return found if sum(label is not None for label in found) >= FEWEST else []


def powered(counted: Sequence[float | None], people: Sequence[float | None]) -> Estimate:
    """The mean of what people would have said, from values of all prompts and labels of some."""
    # None becomes NaN, which the estimate leaves out and counts.
    values, said = (np.array(list(v), dtype=float) for v in (counted, people))
    both = np.isfinite(said)
    return prediction_powered(values[~both], values[both], said[both])


def _key(metric: str, prompt: str, answer: str) -> Key:
    return metric, " ".join(prompt.split()), " ".join(answer.split())
