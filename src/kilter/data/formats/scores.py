"""Formats whose answers are rated, ranked or labelled one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kilter.data.formats.ask import (
    ANSWERS,
    answer_of,
    asking,
    completions,
    first,
    prompt_of,
    stepped,
    text_of,
)
from kilter.data.formats.registry import data_format
from kilter.data.row import (
    Row,
    RowError,
    given,
    is_missing,
    label,
    listed,
    number,
    opened,
    unpacked,
    without_missing,
)
from kilter.data.turns import ROLES, looks_like_turns
from kilter.types import Completion, Feedback, Group, Message, Prompt

RATINGS = ("overall_score", "score", "rating", "fine-grained_score", "pm_score")
"""Columns that hold the score of an answer; the first one that is there counts."""

LABELS = ("label", "kto_tag")
"""Columns that call an answer good or bad."""

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What HelpSteer rates of an answer. Helpfulness is its score, unless `map` says score: another one."""


def label_of(row: Mapping[str, Any]) -> str | None:
    """The column that calls the answer good or bad; a list or a mapping sorts rows, and judges nothing."""
    plain = row.plain if isinstance(row, Row) else row
    return given(row, [c for c in LABELS if not isinstance(plain.get(c), list | dict)])


def labelled(row: Row) -> Feedback:
    """The label of the row's answer; unscored where it is missing. Raises RowError."""
    column = label_of(row)
    return Feedback(None if column is None else label(row[column], column), kind="binary")


def _asks(row: Mapping[str, Any]) -> bool:
    return asking(row) is not None


@data_format(
    "stepwise",
    "TRL stepwise supervision: prompt, completions (steps), labels (one boolean per step)",
    lambda r: _asks(r) and {"completions", "labels"} <= r.keys(),
    {"prompt": "2 + 2 * 2?", "completions": ["2 * 2 = 4.", "2 + 4 = 7."], "labels": [True, False]},
)
def _read_stepwise(row: Row) -> Iterator[Group]:
    steps = listed(row.need("completions"), "completions", "texts")
    if all(s is None for s in steps) or not all(isinstance(s, str | None) for s in steps):
        raise RowError("completions", "should be a non-empty list of texts")
    labels = listed(row.need("labels"), "labels", "labels")
    if len(labels) != len(steps):
        raise RowError("labels", f"should hold one label per step ({len(steps)})")
    for i, (step, judged) in enumerate(zip(steps, labels, strict=True)):
        if step is None and judged is not None:
            raise RowError(f"completions[{i}]", "is null, and has a label: a step is lost")
    kept = without_missing(steps, labels)
    steps, values = [s for _, s, _ in kept], tuple(_step(v, f"labels[{i}]") for i, _, v in kept)
    yield stepped(prompt_of(row), steps, values, {})


def _step(value: Any, field: str) -> float:
    """A label, or a number between the two. Raises RowError where it is missing."""
    found = float(value) if isinstance(value, bool) else None
    if found is None:
        found = (
            number(value, field) if not isinstance(value, str) or _is_number(value) else label(value, field)
        )
    if found is None:
        raise RowError(field, "is missing")
    return found


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).lstrip("-").isdigit()


@data_format(
    "answers",
    "Nectar: a prompt and answers, each with answer and rank; also text and pm_score (Stack Exchange)",
    lambda r: _asks(r) and _entries(r) == "answers",
    {
        "prompt": "\n\nHuman: Capital of France?\n\nAssistant: ",
        "answers": [
            {"answer": "Paris.", "model": "a", "rank": 1},
            {"answer": "Lyon.", "model": "b", "rank": 2},
        ],
    },
)
@data_format(
    "ratings",
    "UltraFeedback-like: a prompt or instruction and completions, each with response and a rating; "
    "distilabel: generations, and ratings in a list of their own",
    lambda r: _asks(r) and _entries(r) in ("completions", "responses", "generations"),
    {
        "instruction": "Capital of France?",
        "completions": [
            {"response": "Paris.", "overall_score": 9, "model": "a"},
            {"response": "Lyon.", "overall_score": 2, "model": "b"},
        ],
    },
)
def _read_ratings(row: Row) -> Iterator[Group]:
    column = _entries(row) or "completions"
    if (beside := _parallel(row, column)) is not None:
        yield _rated_beside(row, column, beside)
        return
    answers, feedback = [], []
    for i, entry in enumerate(listed(row[column], column, "answers")):
        where = f"{column}[{i}]"
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise RowError(
                where, f"should be an answer with response and rating, found {type(entry).__name__}"
            )
        key = first(entry, ("response", "text", "completion", "content", "answer"))
        if key is None:
            raise RowError(f"{where}.response", "is empty or not text")
        if isinstance(entry[key], str) and not entry[key].strip():
            raise RowError(f"{where}.response", "is empty or not text")
        answers.append(answer_of(entry[key], f"{where}.{key}", row))
        score = given(entry, RATINGS)
        place = number(entry["rank"], f"{where}.rank") if score is None and "rank" in entry else None
        judged = rated(entry, score, f"{where}.")
        feedback.append(judged if place is None else replace(judged, score=-place, kind="rank"))
        known = {
            key,
            *(r for r in RATINGS if r in entry and is_missing(entry[r])),
            score,
            "model",
            *(() if place is None else ("rank",)),
        }
        row.unread |= {f"{column}[].{k}": None for k in entry if k not in known}
    prompt, found = completions(prompt_of(row), answers, asking(row) or "prompt")
    yield Group(prompt, tuple(found), tuple(feedback))


BESIDE = ("scores", "ratings", "overall_scores", "rewards", "ranks", "rank")
"""Columns with a number for each of several answers; the first one counts."""


def _parallel(row: Mapping[str, Any], column: str) -> str | None:
    """The column of numbers beside a list of plain answers."""
    name = first(row, BESIDE)
    value = row[column] if column in row and name is not None else None
    found = unpacked(value) if isinstance(value, str) else value
    answers = [v for v in found if v is not None] if isinstance(found, list) else []
    return name if answers and isinstance(answers[0], str) else None


def _rated_beside(row: Row, column: str, beside: str) -> Group:
    """Several answers, and a score or a rank for each of them in a list of its own."""
    texts = listed(row[column], column, "answers")
    numbers = listed(row[beside], beside, "numbers")
    if len(texts) != len(numbers):
        raise RowError(beside, f"should hold one number per answer ({len(texts)})")
    kept = without_missing(texts, numbers)
    answers = [answer_of(t, f"{column}[{i}]", row) for i, t, _ in kept]
    values = [number(v, f"{beside}[{i}]") for i, _, v in kept]
    kind, sign = ("rank", -1) if beside.startswith("rank") else ("rating", 1)
    said = row.get("rationales", None)
    whys = said if isinstance(said, list) and len(said) == len(texts) else [None] * len(texts)
    feedback = tuple(
        Feedback(None if v is None else sign * v, kind=kind, rationale=str(whys[i] or ""))
        for v, (i, _, _) in zip(values, kept, strict=True)
    )
    prompt, found = completions(prompt_of(row), answers, asking(row) or "prompt")
    return Group(prompt, tuple(found), feedback)


def _entries(row: Mapping[str, Any]) -> str | None:
    """The column with rated answers."""
    for column in ("completions", "responses", "generations", "answers"):
        if _parallel(row, column) is not None:
            return column
        if column == "generations":  # without ratings they are answers that nobody judged
            continue
        value = row.get(column)
        if column == "answers":  # answers that nobody judged are for checking others against
            return column if value is not None and _are_judged(value) else None
        packed = isinstance(value, str) and value.lstrip()[:1] == "["
        # Texts and conversations in a list are answers that nobody judged.
        if packed and isinstance(found := opened(value), list):
            packed = not any(isinstance(v, str | list) for v in found)
        if packed or (looks_like_turns(value) and not isinstance(value, str)):
            return column
    return None


def _are_judged(value: Any) -> bool:
    """Whether a list, or a text that was one, holds answers with a rating or a rank."""
    found = opened(value)
    held = next((v for v in found if isinstance(v, Mapping)), {}) if isinstance(found, list) else {}
    return any(name in held for name in (*RATINGS, "rank"))


def rated(entry: Mapping[str, Any], column: str | None, where: str = "") -> Feedback:
    """The score of one answer; unscored where it is missing. Raises RowError."""
    score = None if column is None else number(entry[column], f"{where}{column}")
    source = "" if is_missing(entry.get("model")) else str(entry.get("model"))
    return Feedback(score, kind="rating", source=source)


@data_format(
    "oasst",
    "OpenAssistant trees: every assistant turn with ranked alternatives becomes one ranked group",
    lambda r: isinstance(r.get("prompt"), Mapping) and "replies" in r["prompt"],
    {
        "message_tree_id": "t",
        "prompt": {
            "text": "Capital of France?",
            "role": "prompter",
            "replies": [
                {"text": "Paris.", "role": "assistant", "rank": 0, "replies": []},
                {"text": "Lyon.", "role": "assistant", "rank": 1, "replies": []},
            ],
        },
    },
)
def _read_oasst(row: Row) -> Iterator[Group]:
    tree = str(row.get("message_tree_id", ""))

    def walk(node: Mapping[str, Any], history: tuple[Message, ...]) -> Iterator[Group]:
        role = ROLES.get(str(node.get("role")))
        if role is None:
            raise RowError("role", f"has the unknown role {node.get('role')!r}")
        said = (*history, Message(role=role, content=text_of(node.get("text"), "text")))
        replies = [r for r in node.get("replies") or () if r is not None and not r.get("deleted")]
        if role == "user":
            ranked = [(number(r.get("rank"), "rank"), r) for r in replies if str(r.get("text", "")).strip()]
            places = sorted(((n, r) for n, r in ranked if n is not None), key=lambda pair: pair[0])
            if len(places) >= 2:
                prompt = Prompt(
                    messages=said, id=f"{tree}/{node.get('message_id', '')}", metadata={"tree": tree}
                )
                answers = tuple(Completion(r["text"]) for _, r in places)
                yield Group(prompt, answers, tuple(Feedback(-n, kind="rank") for n, _ in places))
        for reply in replies:
            yield from walk(reply, said)

    yield from walk(row.ask("prompt"), ())


MESSAGE = "kilter.message"
"""In Prompt.metadata until the messages of a file are joined: one message of a tree."""

MESSAGE_KEYS = ("message_id", "parent_id", "message_tree_id", "role", "text", "rank", "deleted")


@data_format(
    "oasst_messages",
    "OpenAssistant messages, one a row: message_id, parent_id, message_tree_id, role, text, rank; "
    "the rows of a file become the groups of their trees",
    lambda r: {"message_id", "message_tree_id", "role", "text"} <= r.keys(),
    {"message_id": "m", "message_tree_id": "m", "role": "prompter", "text": "Capital of France?"},
    system=False,
)
def _read_oasst_message(row: Row) -> Iterator[Group]:
    message = {key: row[key] for key in MESSAGE_KEYS if key in row}
    if str(message["role"]) not in ROLES:
        raise RowError("role", f"has the unknown role {message['role']!r}")
    text_of(message["text"], "text")
    number(message.get("rank"), "rank")
    yield Group(Prompt(metadata={MESSAGE: message}), (), ())


def of_trees(messages: Iterable[Group]) -> Iterator[Group]:
    """The ranked groups of messages that were read one by one, in the order of their trees."""
    metadata = {}
    nodes: dict[str, dict[str, Any]] = {}
    for group in messages:
        noted = dict(group.prompt.metadata)
        node = {**noted.pop(MESSAGE), "replies": []}
        nodes[str(node["message_id"])] = node
        metadata[f"{node['message_tree_id']}/{node['message_id']}"] = noted
    for node in nodes.values():
        parent = nodes.get(str(node.get("parent_id")))
        if parent is not None:
            parent["replies"].append(node)

    # A message whose parent is not in the file says nothing that a model could have been asked.
    for node in nodes.values():
        if is_missing(node.get("parent_id")) and ROLES[str(node["role"])] == "user":
            for group in _read_oasst(Row({"message_tree_id": node["message_tree_id"], "prompt": node})):
                both = {**metadata[group.prompt.id], **group.prompt.metadata}
                yield replace(group, prompt=replace(group.prompt, metadata=both))


def _single(row: Row) -> tuple[Prompt, Completion]:
    """The prompt and the one answer of a row."""
    field = first(row, ANSWERS)
    if field is None:
        raise RowError("completion", "is missing")
    answer = answer_of(row[field], field, row)
    prompt, found = completions(prompt_of(row), [answer], asking(row) or "prompt")
    return prompt, found[0]


def _answers(row: Mapping[str, Any]) -> bool:
    return _asks(row) and first(row, ANSWERS) is not None


@data_format(
    "unpaired",
    "TRL unpaired preference: prompt, completion, label (true or false)",
    lambda r: _answers(r) and label_of(r) is not None,
    {"prompt": "Capital of France?", "completion": "Lyon.", "label": False},
)
def _read_unpaired(row: Row) -> Iterator[Group]:
    prompt, completion = _single(row)
    yield Group(prompt, (completion,), (labelled(row),))


@data_format(
    "scored",
    "One scored answer a row: prompt, completion or response, score or rating; "
    "rows of one prompt become one group",
    lambda r: _answers(r) and first(r, RATINGS) is not None,
    {"prompt": "Capital of France?", "response": "Paris.", "score": 5},
)
def _read_scored(row: Row) -> Iterator[Group]:
    prompt, completion = _single(row)
    parts = _attributes(row)
    feedback = rated(row, given(row, RATINGS))
    yield Group(
        prompt, (completion,), (Feedback(feedback.score, "rating", source=feedback.source, parts=parts),)
    )


@data_format(
    "attributes",
    "HelpSteer: one answer a row with helpfulness, correctness and others; helpfulness is its score",
    lambda r: _answers(r) and "helpfulness" in r,
    {"prompt": "Capital of France?", "response": "Paris.", "helpfulness": 4, "correctness": 4},
)
def _read_attributes(row: Row) -> Iterator[Group]:
    prompt, completion = _single(row)
    parts = _attributes(row)
    yield Group(prompt, (completion,), (Feedback(parts.get("helpfulness"), "rating", parts=parts),))


def _attributes(row: Row) -> dict[str, float]:
    """The ratings of single qualities, by their names."""
    found = {a: number(row[a], a) for a in ATTRIBUTES if a in row}
    return {name: value for name, value in found.items() if value is not None}
