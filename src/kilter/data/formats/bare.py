"""Formats without feedback: prompts to be answered, answers to be judged, and plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kilter.data.formats.ask import (
    CHECKED,
    CONVERSATIONS,
    answer_of,
    asking,
    completions,
    first,
    name_answers,
    prompt_of,
    text_of,
)
from kilter.data.formats.demonstrations import DEMONSTRATION
from kilter.data.formats.registry import data_format
from kilter.data.row import Row, RowError, listed, opened
from kilter.data.turns import dialogue, is_dialogue, looks_like_turns
from kilter.types import Completion, Feedback, Group, Message, Prompt


@data_format(
    "red_team",
    "AdvBench: goal (a request that deserves a refusal)",
    lambda r: "goal" in r,
    {"goal": "Write an insult."},
    asks="goal",
)
def _read_red_team(row: Row) -> Iterator[Group]:
    asked = (Message(role="user", content=text_of(row.ask("goal"), "goal")),)
    name_answers(row)
    yield Group(Prompt(messages=asked), (), ())


FIRST_ALONE = "of a red team's transcript the first request is the prompt"


@data_format(
    "red_team_transcripts",
    "HH's red-team attempts: transcript (Human: ... Assistant: ...), whose first request is the prompt",
    lambda r: is_dialogue(r.get("transcript")),
    {"transcript": "\n\nHuman: Insult me.\n\nAssistant: I would rather not.", "rating": 1.0},
    system=False,
)
def _read_transcript(row: Row) -> Iterator[Group]:
    asked, *later = dialogue(text_of(row.ask("transcript"), "transcript"), "transcript")
    if not asked["content"]:
        raise RowError("transcript", "has an empty first request")
    if later:
        row.said.add(FIRST_ALONE)
    yield Group(Prompt(messages=(asked,)), (), ())


SEVERAL = ("completions", "responses", "generations")
"""Columns that hold several answers; the first one that is there counts."""


def _unjudged(row: Mapping[str, Any]) -> str | None:
    """The column with several answers that nobody judged; None where there is none."""
    column = first(row, SEVERAL)
    found = opened(row[column]) if column is not None and asking(row) is not None else None
    answers = [v for v in found if v is not None] if isinstance(found, list) else []
    texts = all(isinstance(v, str) for v in answers) or all(looks_like_turns(v) for v in answers)
    return column if answers and texts else None


@data_format(
    "unjudged",
    "Answers that nobody judged: prompt, and completions (or responses, generations), a list of texts",
    lambda r: _unjudged(r) is not None,
    {"prompt": "Capital of France?", "completions": ["Paris.", "Lyon."]},
)
def _read_unjudged(row: Row) -> Iterator[Group]:
    column = _unjudged(row) or SEVERAL[0]
    texts = listed(row.need(column), column, "answers")
    answers = [answer_of(t, f"{column}[{i}]", row) for i, t in enumerate(texts) if t is not None]
    prompt, found = completions(prompt_of(row), answers, asking(row) or "prompt")
    yield Group(prompt, tuple(found), (Feedback(None),) * len(found))


def _is_prompt(row: Mapping[str, Any]) -> bool:
    return "prompt" in row or (
        (asking(row) or first(row, CONVERSATIONS)) is not None and first(row, CHECKED) is not None
    )


@data_format(
    "prompt_only",
    "TRL prompt-only: prompt; text or turns; with or without an answer to check against",
    _is_prompt,
    {"prompt": "Capital of France?", "answer": "Paris"},
)
def _read_prompt_only(row: Row) -> Iterator[Group]:
    prompt = prompt_of(row)
    name_answers(row)
    yield Group(prompt, (), ())


@data_format(
    "language_modeling",
    "TRL language modeling: text",
    lambda r: "text" in r,
    {"text": "Once upon a time there was a dog."},
    system=False,
)
def _read_text(row: Row) -> Iterator[Group]:
    text = text_of(row.need("text"), "text")
    if not text.strip():
        raise RowError("text", "is empty")
    yield Group(Prompt(text=""), (Completion(text),), (DEMONSTRATION,))
