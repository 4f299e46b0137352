"""Formats with answers to imitate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kilter.data.formats.ask import (
    ANSWERS,
    CHECKED,
    CONVERSATIONS,
    PROMPTS,
    answer_of,
    as_turn,
    asking,
    completion_of,
    completions,
    ending,
    first,
    prompt_of,
    text_of,
)
from kilter.data.formats.registry import data_format
from kilter.data.formats.scores import RATINGS, label_of, labelled, rated
from kilter.data.row import Row, RowError, given, is_empty
from kilter.data.turns import (
    SPEAKERS,
    THOUGHTS,
    are_rounds,
    is_dialogue,
    looks_like_turns,
    only_asks,
    turns,
)
from kilter.types import Completion, Feedback, Group, Message, Prompt

DEMONSTRATION = Feedback(None, "demonstration")

NOT_ALPACA = tuple(name for name in PROMPTS if name != "instruction")


@data_format(
    "prompt_completion",
    "TRL prompt-completion: prompt, completion; text or turns",
    lambda r: (
        (first(r, NOT_ALPACA) or asking(r)) not in (None, "instruction") and first(r, ANSWERS) is not None
    ),
    {"prompt": "Capital of France?", "completion": "Paris."},
)
def _read_prompt_completion(row: Row) -> Iterator[Group]:
    yield _demonstration(row, first(row, ANSWERS))


def _demonstration(row: Row, field: str | None) -> Group:
    """The row's prompt and its one answer, with what the answer's author thought before."""
    if field is None:
        raise RowError("completion", "is missing")
    answer = answer_of(row[field], field, row)
    thought = first(row, [name for name in THOUGHTS if not _is_switch(row.plain.get(name))])
    if thought is not None and "reasoning_content" not in answer[-1]:
        last = Message(**answer[-1], reasoning_content=text_of(row[thought], thought))
        answer = (*answer[:-1], last)
    prompt, found = completions(prompt_of(row), [answer], asking(row) or "prompt")
    return Group(prompt, (found[0],), (DEMONSTRATION,))


def _is_switch(value: Any) -> bool:
    """Whether a column says that thoughts are shown or hidden, and does not hold them."""
    return isinstance(value, str) and value.strip().lower() in ("on", "off", "true", "false", "yes", "no")


@data_format(
    "conversations",
    "A conversation (TRL messages or ShareGPT conversations), with an optional boolean label, or a score",
    lambda r: (
        (column := first(r, CONVERSATIONS)) is not None
        and _is_conversation(r[column])
        and not (first(r, CHECKED) is not None and only_asks(r[column]))
    ),
    {
        "messages": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ]
    },
)
@data_format(
    "rounds",
    "Capybara: conversation, a list of rounds with input and output; LIMA: conversations, a list of texts",
    lambda r: (
        (column := first(r, CONVERSATIONS)) is not None and (are_rounds(r[column]) or _texts(r[column]))
    ),
    {"conversation": [{"input": "Capital of France?", "output": "Paris."}]},
)
def _read_conversations(row: Row) -> Iterator[Group]:
    field = first(row, CONVERSATIONS)
    if field is None:
        raise RowError("messages", "is missing")
    value = row.ask(field)
    if _texts(value):
        row.said.add(f"the texts of {field} are read as turns, the user's first")
        value = [{"role": SPEAKERS[i % 2], "content": text} for i, text in enumerate(value)]
    found = turns(value, field, row)
    prompt, rest = _split_turns(found, field)
    if len(prompt) + len(rest) < len(found):
        row.said.add("turns after the last answer that is learned are left out")
    feedback = DEMONSTRATION
    if label_of(row) is not None:
        feedback = labelled(row)
        # A label judges the last answer: what came before is prompt.
        prompt, rest = (*prompt, *rest[:-1]), rest[-1:]
    elif first(row, RATINGS) is not None:
        feedback = rated(row, given(row, RATINGS))
    yield Group(Prompt(messages=prompt), (completion_of(rest),), (feedback,))


def _texts(value: Any) -> bool:
    """Whether a value is a list of texts, such as two people say them by turns."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)


def _is_conversation(value: Any) -> bool:
    # An empty list is one that lacks its turns, which is for its reader to say.
    return looks_like_turns(value) or is_dialogue(value) or (isinstance(value, list) and is_empty(value))


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


_SPEAKER = re.compile(r"(?:\A|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE): ")
_SPEAKERS = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"


@data_format(
    "glaive",
    "Glaive function calling: system, and chat, a text of USER, ASSISTANT and FUNCTION RESPONSE",
    lambda r: isinstance(r.get("chat"), str) and r["chat"].lstrip().startswith("USER: "),
    {
        "system": "SYSTEM: You are a helpful assistant.",
        "chat": "USER: Capital of France?\n\n\nASSISTANT: Paris. <|endoftext|>\n\n\n",
    },
    system=False,
)
def _read_glaive(row: Row) -> Iterator[Group]:
    pieces = _SPEAKER.split(text_of(row.ask("chat"), "chat"))
    said = [
        Message(role=_SPEAKERS[who], content=words.replace(_END, "").strip())
        for who, words in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    if "system" in row:
        system = text_of(row.ask("system"), "system").strip().removeprefix("SYSTEM:").strip()
        said[:0] = [Message(role="system", content=system)] if system else []
    prompt, rest = _split_turns(tuple(said), "chat")
    yield Group(Prompt(messages=prompt), (completion_of(rest),), (DEMONSTRATION,))


@data_format(
    "alpaca",
    "Alpaca: instruction, input, output",
    lambda r: "instruction" in r and first(r, ANSWERS) is not None,
    {"instruction": "Name the capital.", "input": "France", "output": "Paris."},
)
def _read_alpaca(row: Row) -> Iterator[Group]:
    group = _demonstration(row, first(row, ("output", *ANSWERS)))
    yield replace(group, prompt=as_turn(group.prompt, row.said.add))


@data_format(
    "inputs_targets",
    "FLAN and Aya: inputs, targets; a definition (Natural Instructions) goes before the inputs",
    lambda r: isinstance(r.get("inputs"), str) and isinstance(r.get("targets"), str),
    {"inputs": "Capital of France?", "targets": "Paris."},
)
def _read_inputs_targets(row: Row) -> Iterator[Group]:
    text = row.ask("inputs")
    if not text.strip():
        raise RowError("inputs", "is empty")
    if "definition" in row:
        text = f"{text_of(row.ask('definition'), 'definition')}\n\n{text}"
    yield Group(
        Prompt(text=text), (completion_of(answer_of(row["targets"], "targets", row)),), (DEMONSTRATION,)
    )


@data_format(
    "worked_solution",
    "NuminaMath, MATH-500, LIMO: problem, solution, answer; the solution is learned, answers are checked "
    "against the answer",
    lambda r: (
        first(r, PROMPTS) is not None and isinstance(r.get("solution"), str) and _is_gold(r.get("answer"))
    ),
    {"problem": "2 + 3?", "solution": "Two and three make \\\\boxed{5}.", "answer": "5"},
)
def _read_worked_solution(row: Row) -> Iterator[Group]:
    prompt, text = prompt_of(row), text_of(row["solution"], "solution")
    noted = replace(prompt, metadata={"answer": str(row.need("answer")).strip()})
    # Some problems have an answer to check against and no solution to learn.
    answers = (completion_of(answer_of(text, "solution", row)),) if text.strip() else ()
    yield Group(noted, answers, (DEMONSTRATION,) * len(answers))


def _is_gold(value: Any) -> bool:
    """Whether this is an answer by itself, and not a text that ends in one, as GSM8K's."""
    return isinstance(value, str | int | float) and "####" not in str(value)


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
    yield Group(as_turn(noted, row.said.add), (Completion(text),), (DEMONSTRATION,))


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
