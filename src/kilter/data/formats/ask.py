"""What a row asks and what it answers, whatever the columns are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kilter.data.row import Row, RowError, is_empty, listed, opened
from kilter.data.turns import are_turns, asked, is_dialogue, looks_like_turns, turns
from kilter.types import PLAIN, Completion, Feedback, Group, Message, Prompt

PROMPTS = ("prompt", "question", "instruction", "query", "problem")
"""Columns that hold a prompt; the first one that is there counts."""

CONTEXTS = ("input", "context")
"""What a question or an instruction is about: it follows the prompt."""

NO_INPUT = "<noinput>"
"""How Self-Instruct and Alpaca write that an instruction is about nothing."""

ANSWERS = ("completion", "response", "output", "generated_solution")
"""Columns that hold one answer; the first one that is there counts."""

BESIDE = (*ANSWERS, "generation", "completions", "responses", "generations")
"""Columns that hold answers, or one, beside the prompts of a format that reads prompts alone."""

SAID = ("final_label", "label", "score")
"""Columns with what somebody said of such an answer."""

CONVERSATIONS = ("messages", "conversations", "conversation", "trajectory")
"""Columns that hold a whole conversation; the first one that is there counts."""

TESTS = ("test_list", "tests", "test_cases", "input_output")
"""Columns that hold tests of a program; beside them a text alone is a prompt (MBPP)."""

CHECKED = (
    "answer",
    "solution",
    "ground_truth",
    "gold",
    "final_answer",
    "expected_answer",
    "reference",
    "reference_answer",
    "reward_model",
    "solutions",
    *TESTS,
)
"""Columns that answers can be checked against: with one of them a question alone is a prompt."""


def first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these columns that holds something; where none does, the first that is there."""
    there = [n for n in names if n in row]
    plain = row.plain if isinstance(row, Row) else row
    return next((n for n in there if not is_empty(plain[n])), there[0] if there else None)


def asking(row: Mapping[str, Any]) -> str | None:
    """The column that asks.

    Where none is named so, and no conversation stands beside it, `input` does, `text` beside tests, or turns
    in `context` or `context_messages`.
    """
    named = first(row, PROMPTS)
    if named is not None and ("instruction" not in row or "prompt" not in row):
        return named
    plain = row.plain if isinstance(row, Row) else row
    if named == "prompt" and _is_filled(plain):
        return "instruction"
    if named is not None or first(row, CONVERSATIONS) is not None:
        return named
    if isinstance(plain.get("input"), str | list):
        return "input"
    if "text" in row and first(row, TESTS) is not None:
        return "text"
    return next((c for c in ("context", "context_messages") if are_turns(opened(plain.get(c)))), None)


def _is_filled(row: Mapping[str, Any]) -> bool:
    """Whether `prompt` is a template filled with the other columns, the answer at its end included."""
    filled, asks, answer = (row.get(c) for c in ("prompt", "instruction", "output"))
    if not isinstance(filled, str) or not isinstance(asks, str) or not isinstance(answer, str):
        return False
    return bool(answer.strip()) and asks in filled and filled.rstrip().endswith(answer.strip())


def prompt_of(row: Row) -> Prompt:
    """What the row asks: text (templated or raw is decided later) or turns. Raises RowError."""
    field = asking(row) or first(row, CONVERSATIONS)
    if field is None:
        raise RowError("prompt", "is missing")
    value = row.ask(field)
    if isinstance(value, str) and not looks_like_turns(value):
        return _text_prompt(value, field, row)
    return Prompt(messages=turns(value, field, row))


def _text_prompt(text: str, field: str, row: Row) -> Prompt:
    if not text.strip():
        raise RowError(field, "is empty")
    about = first(row, [c for c in CONTEXTS if c != field]) if field != "prompt" else None
    more = "" if about is None else text_of(row.ask(about), about)
    if more.strip().lower() not in ("", NO_INPUT):
        text = f"{text}\n\n{more}"
    before = history(row) if field != "prompt" else ()
    if before:
        return Prompt(messages=(*before, Message(role="user", content=text)))
    return Prompt(text=text)


def name_answers(row: Row, more: Sequence[str] = ()) -> None:
    """Says which answers, and which labels of them, a format of prompts alone leaves unread.

    more: further columns that hold an answer.
    """
    answers = [c for c in (*BESIDE, *more) if c in row and c not in row.used]
    if not answers:
        return
    labels = [c for c in SAID if c in row and c not in row.used]
    said = f"prompts alone are read, without the answers ({', '.join(answers)})"
    said += f" and their labels ({', '.join(labels)})" if labels else ""
    # XSTest's word for what people said of an answer. Labels of harm are another matter.
    if SAID[0] in labels:
        said += f"; kilter audit-classifier FILE --label {SAID[0]} reads both"
    row.said.add(said)


def as_turn(prompt: Prompt, say: Callable[[str], object] | None = None) -> Prompt:
    """A prompt that is text as one user turn, and noted as text; turns as they are.

    HH's text becomes its turns. `say` is told so.
    """
    if prompt.text is None:
        return prompt
    messages = asked(prompt.text, say)
    plain = {PLAIN: True} if messages[-1]["content"] == prompt.text else {}
    return replace(prompt, text=None, messages=messages, metadata={**prompt.metadata, **plain})


def history(row: Row) -> tuple[Message, ...]:
    """Earlier rounds that Alpaca's `history` holds as [question, answer]. Raises RowError."""
    if "history" not in row:
        return ()
    found: list[Message] = []
    rounds = listed(row.ask("history"), "history", "rounds")
    if looks_like_turns(rounds):
        return turns(rounds, "history", row)
    for i, pair in enumerate(rounds):
        if pair is None:
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError(f"history[{i}]", "should be [question, answer]")
        asked, said = (text_of(text, f"history[{i}]") for text in pair)
        found += [Message(role="user", content=asked), Message(role="assistant", content=said)]
    return tuple(found)


def text_of(value: Any, field: str) -> str:
    """Text. Raises RowError for anything else."""
    if value is None:
        raise RowError(field, "is missing")
    if not isinstance(value, str):
        raise RowError(field, f"should be text, found {type(value).__name__}")
    return value


def answer_of(value: Any, field: str, row: Row) -> tuple[Message, ...]:
    """An answer as turns: text is one assistant turn. The last turn must be an assistant's and say something.

    Raises RowError.
    """
    if isinstance(value, str) and not looks_like_turns(value) and not is_dialogue(value):
        if not value.strip():
            raise RowError(field, "is empty")
        return (Message(role="assistant", content=value),)
    if not isinstance(value, str | list | Mapping):
        raise RowError(field, f"should be text or turns, found {type(value).__name__}")
    found = turns(value, field, row)
    return ending(found, field)


def ending(found: tuple[Message, ...], field: str) -> tuple[Message, ...]:
    """The same turns. Raises RowError where they do not end with an assistant turn that says something."""
    last = found[-1]
    if last["role"] != "assistant":
        raise RowError(field, f"should end with an assistant turn, ends with {last['role']!r}")
    if not last["content"].strip() and "tool_calls" not in last:
        raise RowError(field, "has an empty last assistant turn")
    return found


def completion_of(found: Sequence[Message]) -> Completion:
    """Turns as one completion; a single turn of words alone needs no turns."""
    last = found[-1]
    plain = len(found) == 1 and last.keys() == {"role", "content"}
    return Completion(text=last["content"], turns=() if plain else tuple(found))


def stepped(
    prompt: Prompt, steps: Sequence[str], labels: Sequence[float], parts: Mapping[str, float]
) -> Group:
    """An answer of judged steps, a line each; it is good where all of its steps are.

    Args:
        prompt: what is asked.
        steps: texts.
        labels: one for each step, 0 to 1.
        parts: what else is known of the whole answer.
    """
    feedback = Feedback(float(all(labels)), kind="steps", steps=tuple(labels), parts=parts)
    return Group(prompt, (Completion(text="\n".join(steps)),), (feedback,))


def completions(
    prompt: Prompt, answers: Sequence[tuple[Message, ...]], field: str
) -> tuple[Prompt, list[Completion]]:
    """The prompt and its answers as completions, without the beginning that all of them repeat.

    Data sets that hold whole conversations beside their prompt (UltraFeedback) repeat it in every answer.

    Args:
        prompt: what the row asks.
        answers: turns of each answer.
        field: the column of the prompt, for messages.

    Raises:
        RowError: the answers begin with turns that the prompt is not.
    """
    whole = all(a[0]["role"] != "assistant" for a in answers)
    repeated, size = _repeated(prompt, answers) if whole else ((), 0)
    if size:
        return Prompt(messages=repeated), [completion_of(a[size:]) for a in answers]

    # After an earlier answer a conversation goes on with a user turn, which is no repetition.
    goes_on = bool(prompt.messages) and prompt.messages[-1]["role"] in ("assistant", "tool")
    if any(a[0]["role"] not in ("assistant", "tool") for a in answers) and not goes_on:
        raise RowError(field, "is not what the conversations beside it begin with")
    return prompt, [completion_of(a) for a in answers]


def _repeated(prompt: Prompt, answers: Sequence[tuple[Message, ...]]) -> tuple[tuple[Message, ...], int]:
    """(what is asked, how many turns at the beginning of every answer repeat it); 0 turns where none do."""
    if prompt.messages or is_dialogue(prompt.text):
        own = prompt.messages or asked(prompt.text or "")
        wanted = _words(own)
        for size in range(1, min(map(len, answers))):
            same = [_words(a[:size]) for a in answers]
            if any(s != same[0] for s in same):
                break
            # A system message may stand on either side.
            if wanted in (same[0], _spoken(same[0])):
                return answers[0][:size], size
            if _spoken(wanted) == same[0]:
                return own, size
        # The prompt may be one of the conversations as a whole.
        size = shared_turns(answers) if len(answers) > 1 and wanted in map(_words, answers) else 0
        return answers[0][:size], size
    size = shared_turns(answers) if len(answers) > 1 else _before_answer(answers[0])
    users = [words for role, words in _words(answers[0][:size]) if role == "user"]
    text = " ".join((prompt.text or "").split())
    size = size if users and text in (users[0], users[-1]) else 0
    return answers[0][:size], size


def _before_answer(found: Sequence[Message]) -> int:
    """Turns before the first answer that is learned."""
    learned = (i for i, m in enumerate(found) if m["role"] == "assistant" and m.get("train", True))
    return next(learned, 0)


def shared_turns(answers: Sequence[tuple[Message, ...]]) -> int:
    """How many turns all answers share, up to one after which every side answers.

    The sides may part at a user turn, which then belongs to the completions.
    """
    shortest = min(map(len, answers)) - 1
    size = 0
    while size < shortest and all(a[size] == answers[0][size] for a in answers):
        size += 1
    while size > 0 and answers[0][size]["role"] != "assistant":
        size -= 1
    return size


def _words(found: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m["role"], " ".join(m["content"].split())) for m in found]


def _spoken(words: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns without system messages."""
    return [turn for turn in words if turn[0] != "system"]
