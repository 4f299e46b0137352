"""What people said: of some answers, which takes the errors of an instrument out of a rate; and of pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.evaluation.response.reading import question
from kilter.statistics import Estimate, prediction_powered
from kilter.types import Answered, Feedback, Group
from kilter.validation import RepeatedKeyError, unique

FEWEST = 15
"""Answers that people labelled, below which a rate is not corrected by them."""

Key = tuple[str, str, str]
"""Metric, question and answer, or question and two answers; white space normalised."""


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
    fix = 'write {"metric": "refusal", "prompt": ..., "answer": ..., "value": 1} in each line'
    for said in _rows(files, Said, where, fix):
        found.setdefault(_key(said.metric, said.prompt, said.answer), []).append(said.value)
    return {key: float(np.mean(values)) for key, values in found.items()}


Row = TypeVar("Row", bound=BaseModel)


def _rows(files: Sequence[str | Path], model: type[Row], where: str, fix: str) -> Iterator[Row]:
    """The rows of all files. Raises UserError where a file is missing, or a row is not as the model says."""
    for path in files:
        if not Path(path).is_file():
            raise UserError(where, str(path), "names no file", "give a file of JSON lines")
        # A file of the user's: its last line counts, with or without an end.
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
            if not line.strip():
                continue
            try:
                yield model.model_validate(json.loads(line, object_pairs_hook=unique))
            except (json.JSONDecodeError, RepeatedKeyError, RecursionError) as error:
                problem = f"is not a row of JSON ({error})"
                raise UserError(where, f"{path}:{number}", problem, fix) from error
            except ValidationError as error:
                first = error.errors()[0]
                problem = f"lacks a usable {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}"
                raise UserError(where, f"{path}:{number}", problem, fix) from error


class Preferred(BaseModel):
    """One comparison by a person, as a labelling page writes it or as a row of pairs."""

    model_config = ConfigDict(extra="ignore")
    prompt: str = Field(description="what was asked: the last user turn")
    answer_a: str = Field(validation_alias=AliasChoices("answer_a", "chosen"))
    answer_b: str = Field(validation_alias=AliasChoices("answer_b", "rejected"))
    winner: Literal["a", "b", "tie"] = Field("a", description="of answer_a and answer_b; of pairs the chosen")

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, row: Any) -> Any:
        """A missing winner is not a win of the answer that stands first."""
        if isinstance(row, Mapping) and "answer_a" in row and "winner" not in row:
            raise ValueError("answer_a and answer_b need a winner")
        return row


WINS = {"a": 1.0, "tie": 0.5, "b": 0.0}


class PeopleSource:
    """People's comparisons from files, as feedback on the answers that they compared.

    An answer that nobody compared stays unscored.

    Raises:
        UserError: a file is missing, or a row lacks a field.
    """

    def __init__(self, files: Sequence[str | Path], where: str = "preferred") -> None:
        fix = 'write {"prompt": ..., "answer_a": ..., "answer_b": ..., "winner": "a"} in each line'
        said: dict[Key, list[float]] = {}
        for row in _rows(files, Preferred, where, fix):
            value = WINS[row.winner]
            said.setdefault(_key(row.prompt, row.answer_a, row.answer_b), []).append(value)
            said.setdefault(_key(row.prompt, row.answer_b, row.answer_a), []).append(1 - value)
        self._said = {key: float(np.mean(values)) for key, values in said.items()}
        self.judge = f"people ({', '.join(Path(f).name for f in files)})"
        self.stamp = "".join(sha256_file(Path(f)) for f in files)

    def judges(self) -> Sequence[Mapping[str, Any]]:
        """None: people are not certified."""
        return ()

    def score(self, groups: Sequence[Group], title: str) -> list[list[Feedback]]:
        """One Feedback per completion: how often it was preferred to each of the others."""
        return [[self._against(g, i) for i in range(len(g.completions))] for g in groups]

    def _against(self, group: Group, own: int) -> Feedback:
        texts = [c.text for c in group.completions]
        asked = question(group.prompt)
        shares = [
            None if place == own else self._said.get(_key(asked, texts[own], other))
            for place, other in enumerate(texts)
        ]
        if all(share is None for share in shares):
            return Feedback(None, "people")
        return Feedback(None, "people", against=tuple(None if s is None else (s, s) for s in shares))


def labels(metric: str, items: Sequence[Answered], known: Mapping[Key, float]) -> list[float | None]:
    """What people said of each prompt's first answer; empty where they labelled too few of them."""
    if not known:
        return []
    found = [
        known.get(_key(metric, question(item.prompt), item.answers[0].text)) if item.answers else None
        for item in items
    ]
    return found if sum(label is not None for label in found) >= FEWEST else []


def powered(
    counted: Sequence[float | None],
    people: Sequence[float | None],
    clusters: Sequence[str] | None = None,
) -> Estimate:
    """The mean of what people would have said, from values of all prompts and labels of some."""
    # None becomes NaN, which the estimate leaves out and counts.
    values, said = (np.array(list(v), dtype=float) for v in (counted, people))
    both = np.isfinite(said)
    names = np.arange(len(both)).astype(str) if clusters is None else np.array(clusters)
    parts = (names[~both].tolist(), names[both].tolist())
    return prediction_powered(values[~both], values[both], said[both], *parts)


def _key(*texts: str) -> Key:
    first, second, third = (" ".join(text.split()) for text in texts)
    return first, second, third
