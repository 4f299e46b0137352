"""Row adapters: every common preference format to a Group. One function per format, one detector each.

Scores are ordinal within a group: chosen 1, rejected 0; ratings and ranks keep their own values (a rank r is
stored as -r, so higher is always better). A row that does not fit raises RowError with the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kilter.errors import UserError, nearest
from kilter.registry import Registry
from kilter.types import Completion, Feedback, Group, Message, Prompt

Row = Mapping[str, Any]


SCORES = ("overall_score", "score", "rating", "fine-grained_score")
"""Columns that hold the score of an answer; the first one that is there counts."""


class RowError(ValueError):
    """A row that does not fit its format; `field` is the column to look at."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")
        self.field, self.problem = field, problem


@dataclass(frozen=True, slots=True)
class Format:
    """`detect` sees the set of columns and the first row; `read` yields the groups of one row."""

    name: str
    description: str
    detect: Callable[[Row], bool]
    read: Callable[[Row], Iterator[Group]]


Reader = Callable[[Row], Iterator[Group]]

formats: Registry[Format] = Registry("format")
"""By name; `data.format: my_file.py:read` names a reader of one's own."""


def data_format(name: str, description: str, detect: Callable[[Row], bool]) -> Callable[[Reader], Reader]:
    """Decorator: registers a reader of rows.

    Formats that are registered earlier are tried earlier on unknown rows.

    Args:
        name: what `data.format` calls it.
        description: what a row looks like, in one line.
        detect: whether a row is of this format.
    """

    def add(read: Reader) -> Reader:
        formats.register(name)(Format(name, description, detect, read))
        return read

    return add


def reader(name: str, field: str = "data.format") -> Reader:
    """What turns a row of this format into groups.

    Raises UserError for an unknown name or an object that cannot be called.
    """
    if ":" not in name and name not in formats.names():
        raise UserError(
            field, name, "is not a known format", nearest(name, ["auto", "groups", *formats.names()])
        )
    found: Any = formats.get(name, field)
    read = found.read if isinstance(found, Format) else found
    if not callable(read):
        raise UserError(
            field, name, "is not a function", "give file.py:read, a function from a row to Groups"
        )
    return cast(Reader, read)


ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise RowError(field, f"should be text, found {type(value).__name__}")
    return value


def _answer(row: Row, field: str) -> str:
    value = _text(row, field)
    if not value.strip():
        raise RowError(field, "is empty")
    return value


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    """OpenAI ({role, content}) or ShareGPT ({from, value}) turns to messages."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise RowError(field, "should be a non-empty list of turns")
    turns: list[Message] = []
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RowError(
                f"{field}[{i}]", f"should be a turn with role and content, found {type(turn).__name__}"
            )
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise RowError(
                f"{field}[{i}].role", f"has the unknown role {role!r}; known: {', '.join(sorted(ROLES))}"
            )
        if isinstance(content, Sequence) and not isinstance(content, str):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        if not isinstance(content, str):
            raise RowError(f"{field}[{i}].content", f"should be text, found {type(content).__name__}")
        turns.append(Message(role=ROLES[role.lower()], content=content))
    return tuple(turns)


def _is_turns(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and isinstance(value[0], Mapping)
    )


def _completion(value: Any, field: str) -> Completion:
    """A completion from text or from turns; the last turn must be a non-empty assistant turn."""
    if isinstance(value, str):
        if not value.strip():
            raise RowError(field, "is empty")
        return Completion(text=value)
    turns = _messages(value, field)
    if turns[-1]["role"] != "assistant":
        raise RowError(field, f"should end with an assistant turn, ends with {turns[-1]['role']!r}")
    if not turns[-1]["content"].strip():
        raise RowError(field, "has an empty last assistant turn")
    return Completion(text=turns[-1]["content"], turns=turns if len(turns) > 1 else ())


def _prompt(value: Any, field: str, row: Row) -> Prompt:
    """Text becomes Prompt.text (templated or raw is decided later); turns become messages."""
    meta = {
        k: v
        for k, v in row.items()
        if k in ("category", "subcategory", "source", "annotator", "margin", "score_chosen", "score_rejected")
    }
    name = str(row.get("id", row.get("prompt_id", "")) or "")
    if isinstance(value, str):
        if not value.strip():
            raise RowError(field, "is empty")
        return Prompt(text=value, id=name, metadata=meta)
    turns = _messages(value, field)
    return Prompt(messages=turns, id=name, metadata=meta)


def _pair(prompt: Prompt, chosen: Completion, rejected: Completion, kind: str = "label") -> Group:
    # Ratings beside the sides decide, never the position: equal ones are a tie, which `to_shape` drops and
    # counts.
    rated, against = prompt.metadata.get("score_chosen"), prompt.metadata.get("score_rejected")
    best, worst = 1.0, 0.0
    if isinstance(rated, int | float) and isinstance(against, int | float):
        best, worst = float(rated), float(against)
    margin = prompt.metadata.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise RowError("margin", f"should be a number, found {margin!r}")
    return Group(prompt, (chosen, rejected), (Feedback(best, kind), Feedback(worst, kind)))


def _split_turns(turns: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation into (prompt up to the first assistant turn, everything after)."""
    first = next((i for i, t in enumerate(turns) if t["role"] == "assistant"), None)
    if first is None:
        raise RowError(field, "has no assistant turn to learn from")
    if first == 0:
        raise RowError(field, "starts with an assistant turn, and has no prompt")
    last = max(i for i, t in enumerate(turns) if t["role"] == "assistant")
    return turns[:first], turns[first : last + 1]


_HH = re.compile(r"\n\n(Human|Assistant): ?")


def parse_hh(text: str, field: str) -> tuple[Message, ...]:
    """HH-RLHF's "\\n\\nHuman: ... \\n\\nAssistant: ..." to messages."""
    pieces = _HH.split(text if text.startswith("\n\n") else "\n\n" + text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowError(field, "is not HH text ('\\n\\nHuman: ...\\n\\nAssistant: ...')")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        Message(role=roles[r], content=c.strip()) for r, c in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    return tuple(turns)


@data_format(
    "hh",
    "HH-RLHF text: chosen and rejected dialogues that share their beginning",
    lambda r: (
        isinstance(r.get("chosen"), str)
        and isinstance(r.get("rejected"), str)
        and "prompt" not in r
        and "\n\nAssistant:" in r["chosen"]
    ),
)
def _read_hh(row: Row) -> Iterator[Group]:
    chosen, rejected = (parse_hh(_text(row, f), f) for f in ("chosen", "rejected"))
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
            raise RowError(field, "has an empty last assistant turn")
    yield _implicit_pair(chosen, rejected, row)


def _implicit_pair(chosen: tuple[Message, ...], rejected: tuple[Message, ...], row: Row) -> Group:
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    # A prompt ends before an assistant turn; the sides may part at a user turn, which then belongs to the
    # completions.
    while shared > 0 and chosen[shared]["role"] != "assistant":
        shared -= 1
    if shared == 0:
        raise RowError("rejected", "shares no prompt with chosen")
    ends = [
        Completion(text=t[-1]["content"], turns=t[shared:] if len(t) - shared > 1 else ())
        for t in (chosen, rejected)
    ]
    return _pair(_prompt(chosen[:shared], "chosen", row), ends[0], ends[1])


@data_format(
    "preference",
    "TRL preference: prompt, chosen, rejected; text or turns",
    lambda r: {"prompt", "chosen", "rejected"} <= r.keys(),
)
def _read_preference(row: Row) -> Iterator[Group]:
    yield _pair(
        _prompt(row["prompt"], "prompt", row),
        _completion(row["chosen"], "chosen"),
        _completion(row["rejected"], "rejected"),
    )


@data_format(
    "sharegpt_preference",
    "ShareGPT preference: conversations, chosen, rejected",
    lambda r: {"conversations", "chosen", "rejected"} <= r.keys(),
)
def _read_sharegpt_preference(row: Row) -> Iterator[Group]:
    turns = _messages(row["conversations"], "conversations")
    if isinstance(row.get("system"), str) and row["system"]:
        turns = (Message(role="system", content=row["system"]), *turns)
    yield _pair(
        _prompt(turns, "conversations", row),
        _completion(row["chosen"], "chosen"),
        _completion(row["rejected"], "rejected"),
    )


@data_format(
    "implicit_preference",
    "TRL preference with implicit prompt: chosen and rejected conversations that share their beginning",
    lambda r: {"chosen", "rejected"} <= r.keys(),
)
def _read_implicit(row: Row) -> Iterator[Group]:
    if isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
        size = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        size = chosen.rfind(" ", 0, size) + 1 if chosen != rejected else chosen.rfind(" ") + 1
        if size <= 0:
            raise RowError("rejected", "shares no prompt with chosen")
        yield _pair(
            _prompt(chosen[:size].rstrip(" "), "chosen", row),
            Completion(chosen[size:]),
            Completion(rejected[size:]),
        )
        return
    yield _implicit_pair(_messages(row["chosen"], "chosen"), _messages(row["rejected"], "rejected"), row)


@data_format(
    "stepwise",
    "TRL stepwise supervision: prompt, completions (steps), labels (one boolean per step)",
    lambda r: {"prompt", "completions", "labels"} <= r.keys(),
)
def _read_stepwise(row: Row) -> Iterator[Group]:
    steps, labels = row["completions"], row["labels"]
    if (
        not isinstance(steps, Sequence)
        or isinstance(steps, str)
        or not all(isinstance(s, str) for s in steps)
        or not steps
    ):
        raise RowError("completions", "should be a non-empty list of texts")
    if not isinstance(labels, Sequence) or len(labels) != len(steps):
        raise RowError("labels", f"should hold one label per step ({len(steps)})")
    values = tuple(float(x) for x in labels)
    feedback = Feedback(float(all(values)), kind="steps", steps=values)
    yield Group(_prompt(row["prompt"], "prompt", row), (Completion(text="\n".join(steps)),), (feedback,))


@data_format(
    "ratings",
    "UltraFeedback-like: a prompt or instruction and completions, each with response and a rating",
    lambda r: _is_turns(r.get("completions")) and ("instruction" in r or "prompt" in r),
)
def _read_ratings(row: Row) -> Iterator[Group]:
    field = "instruction" if "instruction" in row else "prompt"
    completions, feedback = [], []
    for i, entry in enumerate(row["completions"]):
        where = f"completions[{i}]"
        text = entry.get("response", entry.get("text"))
        if not isinstance(text, str) or not text.strip():
            raise RowError(f"{where}.response", "is empty or not text")
        completions.append(Completion(text))
        feedback.append(_rating(entry, f"{where}."))
    yield Group(_prompt(row[field], field, row), tuple(completions), tuple(feedback))


def _rating(entry: Row, where: str = "") -> Feedback:
    """The score of one answer; unscored where it is absent."""
    name = next((k for k in SCORES if entry.get(k) is not None), None)
    score = None if name is None else entry[name]
    if isinstance(score, bool) or not isinstance(score, int | float | str | None):
        raise RowError(f"{where}{name}", f"should be a number, found {type(score).__name__}")
    try:
        value = None if score is None else float(score)
    except ValueError as error:
        raise RowError(f"{where}{name}", f"should be a number, found {score!r}") from error
    return Feedback(value, kind="rating", source=str(entry.get("model", "")))


@data_format(
    "oasst",
    "OpenAssistant trees: every assistant turn with ranked alternatives becomes one ranked group",
    lambda r: isinstance(r.get("prompt"), Mapping) and "replies" in r["prompt"],
)
def _read_oasst(row: Row) -> Iterator[Group]:
    tree = str(row.get("message_tree_id", ""))

    def walk(node: Row, history: tuple[Message, ...]) -> Iterator[Group]:
        role = ROLES.get(str(node.get("role")))
        if role is None:
            raise RowError("role", f"has the unknown role {node.get('role')!r}")
        turns = (*history, Message(role=role, content=_text(node, "text")))
        replies = [r for r in node.get("replies") or () if not r.get("deleted")]
        if role == "user":
            ranked = sorted(
                (r for r in replies if r.get("rank") is not None and str(r.get("text", "")).strip()),
                key=lambda r: r["rank"],
            )
            if len(ranked) >= 2:
                yield Group(
                    Prompt(
                        messages=turns, id=f"{tree}/{node.get('message_id', '')}", metadata={"tree": tree}
                    ),
                    tuple(Completion(r["text"]) for r in ranked),
                    tuple(Feedback(-float(r["rank"]), kind="rank") for r in ranked),
                )
        for reply in replies:
            yield from walk(reply, turns)

    yield from walk(row["prompt"], ())


@data_format(
    "unpaired",
    "TRL unpaired preference: prompt, completion, label (true or false)",
    lambda r: {"prompt", "completion", "label"} <= r.keys(),
)
def _read_unpaired(row: Row) -> Iterator[Group]:
    yield Group(
        _prompt(row["prompt"], "prompt", row),
        (_completion(row["completion"], "completion"),),
        (_binary(row),),
    )


def _binary(row: Row) -> Feedback:
    label = row["label"]
    if isinstance(label, str):  # CSV has only text
        label = {"true": 1, "1": 1, "false": 0, "0": 0}.get(label.strip().lower(), label)
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise RowError("label", f"should be true or false, found {row['label']!r}")
    return Feedback(float(label), kind="binary")


@data_format(
    "scored",
    "One scored answer a row: prompt, completion or response, score or rating; "
    "rows of one prompt become one group",
    lambda r: "prompt" in r and bool({"completion", "response"} & r.keys()) and bool(set(SCORES) & r.keys()),
)
def _read_scored(row: Row) -> Iterator[Group]:
    field = "completion" if "completion" in row else "response"
    yield Group(_prompt(row["prompt"], "prompt", row), (_completion(row[field], field),), (_rating(row),))


@data_format(
    "prompt_completion",
    "TRL prompt-completion: prompt, completion; text or turns",
    lambda r: {"prompt", "completion"} <= r.keys(),
)
def _read_prompt_completion(row: Row) -> Iterator[Group]:
    yield Group(
        _prompt(row["prompt"], "prompt", row),
        (_completion(row["completion"], "completion"),),
        (Feedback(None, "demonstration"),),
    )


@data_format(
    "conversations",
    "A conversation (TRL messages or ShareGPT conversations), with an optional boolean label",
    lambda r: _is_turns(r.get("messages")) or _is_turns(r.get("conversations")),
)
def _read_conversations(row: Row) -> Iterator[Group]:
    field = "messages" if "messages" in row else "conversations"
    turns = _messages(row[field], field)
    if isinstance(row.get("system"), str) and row["system"]:
        turns = (Message(role="system", content=row["system"]), *turns)
    prompt, rest = _split_turns(turns, field)
    if not rest[-1]["content"].strip():
        raise RowError(field, "has an empty last assistant turn")
    if "label" in row:  # a label judges the last answer: what came before is prompt
        prompt, rest = (*prompt, *rest[:-1]), rest[-1:]
    feedback = _binary(row) if "label" in row else Feedback(None, "demonstration")
    completion = Completion(text=rest[-1]["content"], turns=rest if len(rest) > 1 else ())
    yield Group(_prompt(prompt, field, row), (completion,), (feedback,))


@data_format("alpaca", "Alpaca: instruction, input, output", lambda r: {"instruction", "output"} <= r.keys())
def _read_alpaca(row: Row) -> Iterator[Group]:
    instruction, extra = _text(row, "instruction"), row.get("input") or ""
    text = f"{instruction}\n\n{extra}" if extra else instruction
    turns: list[Message] = [Message(role="system", content=row["system"])] if row.get("system") else []
    for pair in row.get("history") or ():
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    turns.append(Message(role="user", content=text))
    if not text.strip():
        raise RowError("instruction", "is empty")
    yield Group(
        _prompt(turns, "instruction", row),
        (Completion(_answer(row, "output")),),
        (Feedback(None, "demonstration"),),
    )


@data_format(
    "question_answer",
    "A question with its answer to check against: question, answer (GSM8K), "
    "or Body, Question, Answer and Equation (SVAMP)",
    lambda r: _is_question(r),
)
def _read_question_answer(row: Row) -> Iterator[Group]:
    if "Question" in row:
        body = str(row.get("Body") or "").strip()
        joint = "" if not body else " " if body[-1] in ".?!" else ". "
        question = f"{body}{joint}{row['Question']}".strip()
        answer = str(row["Answer"])
    else:
        question, answer = _text(row, "question"), str(row["answer"])
    if not answer.strip():
        raise RowError("answer", "is empty")
    gold = answer.rpartition("####")[2].strip()
    gold = gold[:-2] if gold.endswith(".0") else gold
    prompt = Prompt(
        messages=({"role": "user", "content": question},),
        id=str(row.get("ID", row.get("id", ""))),
        metadata={"answer": gold},
    )
    work = f"{_arithmetic(str(row['Equation']))} = {gold}\n" if row.get("Equation") else ""
    text = answer if "####" in answer else f"{work}#### {gold}"
    yield Group(prompt, (Completion(text),), (Feedback(None, "demonstration"),))


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


def _is_question(row: Row) -> bool:
    return {"question", "answer"} <= row.keys() or {"Question", "Answer"} <= row.keys()


@data_format("red_team", "AdvBench: goal (a request that deserves a refusal)", lambda r: "goal" in r)
def _read_red_team(row: Row) -> Iterator[Group]:
    yield Group(
        Prompt(messages=({"role": "user", "content": _text(row, "goal")},), id=str(row.get("id", ""))), (), ()
    )


@data_format("prompt_only", "TRL prompt-only: prompt; text or turns", lambda r: "prompt" in r)
def _read_prompt_only(row: Row) -> Iterator[Group]:
    yield Group(_prompt(row["prompt"], "prompt", row), (), ())


@data_format("language_modeling", "TRL language modeling: text", lambda r: "text" in r)
def _read_text(row: Row) -> Iterator[Group]:
    yield Group(
        Prompt(text="", id=str(row.get("id", ""))),
        (Completion(_answer(row, "text")),),
        (Feedback(None, "demonstration"),),
    )


def detect(row: Row) -> Format | None:
    """The first format whose detector accepts this row."""
    # The order of this file goes from the most specific to the least.
    return next((f for f in formats.in_order() if f.detect(row)), None)
