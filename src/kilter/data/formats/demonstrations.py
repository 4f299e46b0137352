"""Formats with answers to imitate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kilter.data.formats.ask import (
    ANSWERS,
    CONVERSATIONS,
    PROMPTS,
    answer_of,
    as_turn,
    completion_of,
    completions,
    ending,
    first,
    prompt_of,
    text_of,
)
from kilter.data.formats.registry import data_format
from kilter.data.formats.scores import LABELS, RATINGS, labelled, rated
from kilter.data.row import Row, RowError, given, is_empty
from kilter.data.turns import THOUGHTS, looks_like_turns, turns
from kilter.types import Completion, Feedback, Group, Message, Prompt

DEMONSTRATION = Feedback(None, "demonstration")

NOT_ALPACA = tuple(name for name in PROMPTS if name != "instruction")


@data_format(
    "prompt_completion",
    "TRL prompt-completion: prompt, completion; text or turns",
    lambda r: first(r, NOT_ALPACA) is not None and first(r, ANSWERS) is not None,
    {"prompt": "Capital of France?", "completion": "Paris."},
)
def _read_prompt_completion(row: Row) -> Iterator[Group]:
    yield _demonstration(row, first(row, ANSWERS))


def _demonstration(row: Row, field: str | None) -> Group:
    """The row's prompt and its one answer, with what the answer's author thought before."""
    if field is None:
        raise RowError("completion", "is missing")
    answer = answer_of(row[field], field, row)
    thought = first(row, THOUGHTS)
    if thought is not None and "reasoning_content" not in answer[-1]:
        last = Message(**answer[-1], reasoning_content=text_of(row[thought], thought))
        answer = (*answer[:-1], last)
    prompt, found = completions(prompt_of(row), [answer], first(row, PROMPTS) or "prompt")
    return Group(prompt, (found[0],), (DEMONSTRATION,))


@data_format(
    "conversations",
    "A conversation (TRL messages or ShareGPT conversations), with an optional boolean label, or a score",
    lambda r: (column := first(r, CONVERSATIONS)) is not None and _is_conversation(r[column]),
    {
        "messages": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ]
    },
)
def _read_conversations(row: Row) -> Iterator[Group]:
    field = first(row, CONVERSATIONS)
    if field is None:
        raise RowError("messages", "is missing")
    found = turns(row.ask(field), field, row)
    prompt, rest = _split_turns(found, field)
    if len(prompt) + len(rest) < len(found):
        row.said.add("turns after the last answer that is learned are left out")
    feedback = DEMONSTRATION
    if first(row, LABELS) is not None:
        feedback = labelled(row)
        # A label judges the last answer: what came before is prompt.
        prompt, rest = (*prompt, *rest[:-1]), rest[-1:]
    elif first(row, RATINGS) is not None:
        feedback = rated(row, given(row, RATINGS))
    yield Group(Prompt(messages=prompt), (completion_of(rest),), (feedback,))


def _is_conversation(value: Any) -> bool:
    # An empty list is one that lacks its turns, which is for its reader to say.
    return looks_like_turns(value) or (isinstance(value, list) and is_empty(value))


def _split_turns(found: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation into (what comes before the first turn to learn, the rest up to the last one)."""
    answers = [i for i, t in enumerate(found) if t["role"] == "assistant"]
    learned = [i for i in answers if found[i].get("train", True)]
    if not answers:
        # A whole log of questions, to be answered anew, stands under `messages` as well.
        fix = f"add the answer, read it as a prompt with --map prompt={field}"
        raise RowError(field, "has no assistant turn to learn from", fix=fix)
    if not learned:
        raise RowError(field, "has no assistant turn that is to be learned")
    if learned[0] == 0:
        raise RowError(field, "starts with an assistant turn, and has no prompt")
    rest = ending(found[learned[0] : learned[-1] + 1], field)
    if not all(_says(found[i]) for i in learned):
        raise RowError(field, "has an empty assistant turn, which would teach to answer nothing")
    return found[: learned[0]], rest


def _says(turn: Message) -> bool:
    return bool(turn["content"].strip() or {"tool_calls", "reasoning_content"} & turn.keys())


@data_format(
    "alpaca",
    "Alpaca: instruction, input, output",
    lambda r: "instruction" in r and first(r, ANSWERS) is not None,
    {"instruction": "Name the capital.", "input": "France", "output": "Paris."},
)
def _read_alpaca(row: Row) -> Iterator[Group]:
    group = _demonstration(row, first(row, ("output", *ANSWERS)))
    yield replace(group, prompt=as_turn(group.prompt))


@data_format(
    "question_answer",
    "A question with its answer to check against: question, answer (GSM8K), "
    "or Body, Question, Answer and Equation (SVAMP)",
    lambda r: _is_question(r),
    {"question": "2 + 3?", "answer": "Two and three make five.\n#### 5"},
)
def _read_question_answer(row: Row) -> Iterator[Group]:
    if "Question" in row:
        body = str(row.ask("Body")).strip() if "Body" in row else ""
        joint = "" if not body else " " if body[-1] in ".?!" else ". "
        prompt = Prompt(text=f"{body}{joint}{row.ask('Question')}".strip())
        answer = str(row.need("Answer"))
    else:
        prompt = prompt_of(row)
        answer = str(row.need("answer"))
    if not answer.strip():
        raise RowError("answer", "is empty")
    # A verifier compares with what stands after the mark. A reward function gets the column as it is.
    gold = answer.rpartition("####")[2].strip()
    gold = gold[:-2] if gold.endswith(".0") and _is_decimal(gold) else gold
    # What the row writes is what is learned. An equation alone is no answer, so that the mark joins the two.
    work = f"{_arithmetic(str(row['Equation']))} = {gold}\n#### {gold}" if row.get("Equation") else ""
    text = answer if "####" in answer or not work else work
    noted = replace(prompt, metadata={"answer": gold})
    yield Group(as_turn(noted), (Completion(text),), (DEMONSTRATION,))


def _is_decimal(text: str) -> bool:
    return text.removesuffix(".0").lstrip("-").isdecimal()


def _arithmetic(equation: str) -> str:
    """SVAMP's "( ( 8.0 * 2.0 ) - 3.0 )" as people write it: (8 * 2) - 3."""
    text = re.sub(r"(\d)\.0\b", r"\1", equation.strip())
    text = re.sub(r"\(\s+", "(", re.sub(r"\s+\)", ")", text))
    inner = text[1:-1]
    depth = 0
    for c in inner:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return text
    return inner if text[:1] == "(" and text[-1:] == ")" else text


def _is_question(row: Mapping[str, Any]) -> bool:
    return {"question", "answer"} <= row.keys() or {"Question", "Answer"} <= row.keys()
