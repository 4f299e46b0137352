"""Formats with a better and a worse answer in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kilter.data.formats.ask import (
    CONVERSATIONS,
    answer_of,
    asking,
    completion_of,
    completions,
    ending,
    first,
    prompt_of,
    shared_turns,
    text_of,
)
from kilter.data.formats.registry import data_format
from kilter.data.row import Row, RowError, given, is_missing, label, number, unpacked, without_missing
from kilter.data.turns import asked, dialogue, looks_like_turns, tools_of, turns
from kilter.types import Completion, Feedback, Group, Message, Prompt

HI = {"role": "user", "content": "Capital of France?"}
PARIS, LYON = {"role": "assistant", "content": "Paris."}, {"role": "assistant", "content": "Lyon."}

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
"""Columns with the scores of the two sides."""

MORE_REJECTED = re.compile(r"rejected[_-]?\d+")
"""Further rejected answers in columns of their own."""


SIDES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("better", "worse"),
    ("winning", "losing"),
    ("response_j", "response_k"),
    ("edited_response", "original_response"),
)
"""Columns with the better and the worse answer; the first two that are there count."""


def _sides_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the two sides; chosen and rejected where the row has none."""
    # Several rejected answers may stand in numbered columns alone.
    more = [("chosen", c) for c in row if MORE_REJECTED.fullmatch(c)]
    return next((pair for pair in (*SIDES, *more) if pair[0] in row and pair[1] in row), SIDES[0])


def _has_sides(row: Mapping[str, Any]) -> bool:
    return set(_sides_of(row)) <= row.keys()


@data_format(
    "hh",
    "HH-RLHF text: chosen and rejected dialogues that share their beginning",
    lambda r: (
        isinstance(r.get("chosen"), str)
        and isinstance(r.get("rejected"), str)
        and (asking(r) or first(r, CONVERSATIONS)) is None
        and "\n\nAssistant:" in r["chosen"]
    ),
    {
        "chosen": "\n\nHuman: Capital of France?\n\nAssistant: Paris.",
        "rejected": "\n\nHuman: Capital of France?\n\nAssistant: Lyon.",
    },
)
def _read_hh(row: Row) -> Iterator[Group]:
    sides = []
    for field in ("chosen", "rejected"):
        said = dialogue(text_of(row.need(field), field), field)
        if said[-1]["role"] != "assistant" or not said[-1]["content"]:
            raise RowError(field, "has an empty last assistant turn")
        sides.append(said)
    yield _implicit_pair(sides[:1], sides[1:], row)


def _implicit_pair(chosen: list[tuple[Message, ...]], rejected: list[tuple[Message, ...]], row: Row) -> Group:
    size = shared_turns([*chosen, *rejected])
    if size == 0:
        raise RowError("rejected", "shares no prompt with chosen")
    better, worse = ([completion_of(side[size:]) for side in sides] for sides in (chosen, rejected))
    return _pair(Prompt(messages=chosen[0][:size]), better, worse, row)


STEMS = ("response", "answer", "completion", "output", "conversation", "human_ref")
ENDS = (("0", "1"), ("1", "2"), ("a", "b"), ("A", "B"))
CHOICES = (
    *("better_response_id", "preferred", "preference", "winner", "choice", "better", "label", "labels"),
    *("preference_strength", "overall_preference"),
)
"""Columns that say which of two answers is better; the first one counts."""

STRENGTHS = ("preference_strength", "overall_preference")
"""Of them those that hold a signed number: below 0 the first answer is better."""

TIES = ("tie", "both", "equal", "same", "neither", "draw", "bothbad", "bad")


def _columns_of_two() -> dict[str, tuple[str, tuple[str, str]]]:
    """Every column that a first answer may have, with the column of the second and how the two end."""
    found: dict[str, tuple[str, tuple[str, str]]] = {}
    for stem in STEMS:
        for one, two in ENDS:
            for joint in ("_", ""):
                found[f"{stem}{joint}{one}"] = (f"{stem}{joint}{two}", (one, two))
    return found


SECOND = _columns_of_two()


def _two(row: Mapping[str, Any]) -> tuple[str, str, tuple[str, str]] | None:
    """(column of the first answer, of the second, how they end) of two answers beside each other."""
    for column in row:
        if column in SECOND and SECOND[column][0] in row:
            return column, *SECOND[column]
    return None


@data_format(
    "two_answers",
    "Two answers and which is better: response_0, response_1, better_response_id (PKU-SafeRLHF); "
    "also answer_a, answer_b, winner; winner_model_a and winner_model_b (Kaggle's arena); score_0, score_1",
    lambda r: (two := _two(r)) is not None and (first(r, CHOICES) or _rated_ends(r, two[2])) is not None,
    {"prompt": "Capital of France?", "response_0": "Lyon.", "response_1": "Paris.", "better_response_id": 1},
)
def _read_two_answers(row: Row) -> Iterator[Group]:
    found = _two(row)
    if found is None:  # the row has one of two columns, or none
        pairs = [(one, SECOND[one][0]) for one in SECOND]
        lacks = (b if a in row else a for a, b in pairs if a in row or b in row)
        raise RowError(next(lacks, "response_0"), "is missing")
    one, two, ends = found
    column = given(row, CHOICES)
    better = None if column is None else _better(row[column], column, one, ends)
    rated = _rated_ends(row, ends) if column is None else None
    parts = _judgements(row, ends)
    prompt, sides = _rounds(row, one, two) or _asked(row, one, two)
    prompt, answers = completions(prompt, sides, "prompt")
    scores: list[float | None] = [None, None] if better is None else [1 - better, better]
    if rated is not None:
        scores = [number(row[c], c) for c in rated]
    if "winner_tie" in row:  # both votes are 0 then
        row.used.add("winner_tie")
    kind = "label" if rated is None else "rating"
    feedback = [Feedback(s, kind, parts=p) for s, p in zip(scores, parts, strict=True)]
    yield Group(prompt, tuple(answers), tuple(feedback))


Sides = list[tuple[Message, ...]]


def _asked(row: Row, one: str, two: str) -> tuple[Prompt, Sides]:
    """The prompt and the two answers. Raises RowError."""
    sides = [answer_of(row[c], c, row) for c in (one, two)]
    if "history" in row and isinstance(row.get("history"), str):  # SHP calls its prompt so
        return Prompt(text=row.ask("history")), sides
    if asking(row) is not None or first(row, CONVERSATIONS) is not None:
        return prompt_of(row), sides
    # LMSYS: whole conversations that share their beginning
    size = shared_turns(sides)
    if size == 0:
        raise RowError(two, f"shares no prompt with {one}")
    return Prompt(messages=sides[0][:size]), [s[size:] for s in sides]


def _rounds(row: Row, one: str, two: str) -> tuple[Prompt, Sides] | None:
    """Kaggle's arena: a list of questions, and of each side's answers; None for rows of another kind."""
    lists: list[Any] = [
        unpacked(v) if isinstance(v := row.plain.get(c), str) else v for c in ("prompt", one, two)
    ]
    whole = all(isinstance(v, list) and v and all(isinstance(t, str | None) for t in v) for v in lists)
    if not whole or len({len(v) for v in lists}) > 1:
        return None
    # Of a round that is null on all sides there was none.
    lists = [[*v] for v in zip(*(r for r in zip(*lists, strict=True) if any(t is not None for t in r)))]
    if not lists:
        return None
    asked = [text_of(t, "prompt") for t in lists[0]]
    sides: Sides = []
    for column, said in zip((one, two), lists[1:], strict=True):
        found = [Message(role="assistant", content=text_of(said[0], column))]
        for question, answer in zip(asked[1:], said[1:], strict=True):
            found.append(Message(role="user", content=question))
            found.append(Message(role="assistant", content=text_of(answer, column)))
        sides.append(ending(tuple(found), column))
    row.used |= {one, two}
    row.ask("prompt")
    return Prompt(text=asked[0]), sides


RATED = ("winner_model", "score", "rating")
"""Stems of the columns that rate two answers beside each other; a vote is 1 for the one that won."""


def _rated_ends(row: Mapping[str, Any], ends: tuple[str, str]) -> tuple[str, str] | None:
    """The columns that rate each of two answers, by how the columns of the answers end."""
    found = ((f"{stem}_{ends[0]}", f"{stem}_{ends[1]}") for stem in RATED)
    return next((pair for pair in found if pair[0] in row and pair[1] in row), None)


def _better(value: Any, column: str, one: str, ends: tuple[str, str]) -> float | None:
    """0 where the first answer is better, 1 where the second is, 0.5 for a tie, None where nobody says."""
    if is_missing(value):
        return None
    if column in STRENGTHS:
        strength = number(value, column) or 0.0
        return 0.5 if strength == 0 else float(strength > 0)
    text = str(int(value) if isinstance(value, float | bool) and value == int(value) else value).strip()
    if one.startswith("human_ref"):  # SHP: 1 says that the first one is better
        return 1 - (label(value, column) or 0.0)
    last = re.split(r"[\s_-]", text.lower().removeprefix("model_"))[-1]
    order = re.fullmatch(r"([ab])\s*([<>=])[<>=]*\s*([ab])", text.lower())
    if order is not None and order[1] != order[3]:  # JudgeBench: A>B
        return 0.5 if order[2] == "=" else float(order[1 if order[2] == ">" else 3] == "b")
    for place, end in enumerate(ends):
        if (
            last in (end.lower(), ("first", "second")[place], "ab"[place])
            or text == f"{one[: -len(end)]}{end}"
        ):
            return float(place)
    if ends[0] in "aA" and text in ("0", "1"):
        return float(text)
    if any(re.match(rf"{tie}\b", text.lower()) for tie in TIES) or (ends == ("1", "2") and text == "0"):
        return 0.5
    raise RowError(column, f"should name the better answer ({ends[0]}, {ends[1]} or tie), found {value!r}")


def _judgements(row: Row, ends: tuple[str, str]) -> list[dict[str, float]]:
    """What else is said of each answer, such as PKU-SafeRLHF's safety, as parts of its feedback."""
    parts: list[dict[str, float]] = [{}, {}]
    if "safer_response_id" in row:
        safer = _better(row["safer_response_id"], "safer_response_id", "response_0", ends)
        if safer is not None:
            parts[0]["safer"], parts[1]["safer"] = 1 - safer, safer
    for place, end in enumerate(ends):
        for column, part in ((f"is_response_{end}_safe", "safe"), (f"score_{end}", "score")):
            if column in row:
                value = (label if part == "safe" else number)(row[column], column)
                parts[place] |= {} if value is None else {part: value}
    return parts


@data_format(
    "preference",
    "TRL preference: prompt, chosen, rejected; text or turns; rejected may be a list; "
    "also chosen_response and rejected_response, preferred and dispreferred, better and worse; "
    "p may say how probably chosen is better; initial_reason_steps (Step-DPO) begin both answers",
    lambda r: _has_sides(r) and asking(r) is not None,
    {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."},
)
def _read_preference(row: Row) -> Iterator[Group]:
    prompt = prompt_of(row)
    if BEGUN in row:
        before = prompt.messages or asked(prompt.text or "", row.said.add)
        begun = Message(role="assistant", content=text_of(row.ask(BEGUN), BEGUN))
        prompt = replace(prompt, text=None, messages=(*before, begun))
    yield _explicit_pair(prompt, asking(row) or "prompt", row)


BEGUN = "initial_reason_steps"
"""Column with the beginning that both answers go on from."""


@data_format(
    "sharegpt_preference",
    "ShareGPT preference: conversations (or messages), chosen, rejected",
    lambda r: _has_sides(r) and first(r, CONVERSATIONS) is not None,
    {"conversations": [{"from": "human", "value": "Capital of France?"}], "chosen": PARIS, "rejected": LYON},
)
def _read_sharegpt_preference(row: Row) -> Iterator[Group]:
    field = first(row, CONVERSATIONS) or "conversations"
    found = turns(row.ask(field), field, row)
    # Some sets hold the chosen conversation a second time in this column.
    last = found[-1]
    better = _sides_of(row)[0]
    chosen = _sides(row[better], better, row)[0]
    if last["role"] == "assistant" and last["content"] == chosen[-1]["content"] and len(found) > 1:
        found = found[:-1]
    yield _explicit_pair(Prompt(messages=found), field, row)


WORSE = ("rejected_response", "rejected_messages")
"""Columns that hold the worse answer to a conversation, or the worse conversation."""


@data_format(
    "swift_preference",
    "ms-swift preference: messages, whose last answer is the better one, and rejected_response "
    "or rejected_messages",
    lambda r: first(r, CONVERSATIONS) is not None and first(r, WORSE) is not None and not _has_sides(r),
    {"messages": [HI, PARIS], "rejected_response": "Lyon."},
)
def _read_swift_preference(row: Row) -> Iterator[Group]:
    field = first(row, CONVERSATIONS) or "messages"
    better = ending(turns(row.ask(field), field, row), field)
    column = first(row, WORSE) or WORSE[0]
    worse = _sides(row.need(column), column, row)
    # A response alone stands in the place of the last answer.
    whole = [side if side[0]["role"] != "assistant" else (*better[:-1], *side) for side in worse]
    yield _implicit_pair([better], whole, row)


@data_format(
    "openai_preference",
    "OpenAI preference: input with messages (and tools), preferred_output, non_preferred_output",
    lambda r: isinstance(r.get("input"), Mapping) and "messages" in r["input"] and _has_sides(r),
    {"input": {"messages": [HI]}, "preferred_output": [PARIS], "non_preferred_output": [LYON]},
)
def _read_openai_preference(row: Row) -> Iterator[Group]:
    asked = row.ask("input")
    row.unread |= {f"input.{k}": None for k in asked if k not in ("messages", "tools")}
    prompt = Prompt(messages=turns(asked["messages"], "input.messages", row))
    group = _explicit_pair(prompt, "input", row)
    tools = tools_of(asked.get("tools"), "input.tools")
    yield replace(group, prompt=replace(group.prompt, tools=tools))


def _explicit_pair(prompt: Prompt, field: str, row: Row) -> Group:
    better, worse = _sides_of(row)
    chosen = _sides(row.need(better), better, row)
    rejected = _rejected(row, worse)
    try:
        prompt, answers = completions(prompt, [*chosen, *rejected], field)
    except RowError as error:
        fix = "correct the row, take the prompt from the conversations with --format implicit_preference"
        raise RowError(error.field, error.problem, error.value, fix) from None
    return _pair(prompt, answers[: len(chosen)], answers[len(chosen) :], row)


def _rejected(row: Row, worse: str) -> list[tuple[Message, ...]]:
    """The rejected answers of this column and of the numbered ones beside it. Raises RowError."""
    more = [c for c in row if MORE_REJECTED.fullmatch(c) and c != worse]
    return [answer for c in (worse, *more) for answer in _sides(row.need(c), c, row)]


def _sides(value: Any, field: str, row: Row) -> list[tuple[Message, ...]]:
    """The answers of one side: one, or a list of texts or of conversations. Raises RowError."""
    if isinstance(value, list) and value and all(v is None for v in value):
        raise RowError(field, "is missing")
    several = _several(value, field, row)
    if several is None:
        return [answer_of(value, field, row)]
    return [answer_of(v, f"{field}[{i}]", row) for i, v in enumerate(several) if v is not None]


def _several(value: Any, field: str, row: Row) -> list[Any] | None:
    """The list of answers that a column holds; a null in it is none. None: the column holds one answer."""
    if row.cells and isinstance(value, str) and field.startswith(LISTED):
        value = _unlisted(value, row)
    given = next((v for v in value if v is not None), None) if isinstance(value, list) else None
    return value if isinstance(given, str | list) else None


LISTED = tuple(worse for _, worse in SIDES)
"""Beginnings of the columns that may hold several answers."""


def _unlisted(cell: str, row: Row) -> Any:
    """Several answers that a cell holds as a list. Where the better side is a list too, both are text."""
    found = unpacked(cell)
    texts = isinstance(found, list) and all(isinstance(v, str | None) for v in found) and any(found)
    better = row.plain.get(_sides_of(row)[0])
    packed = isinstance(better, str) and isinstance(unpacked(better), list)
    return found if texts and not packed else cell


@data_format(
    "implicit_preference",
    "TRL preference with implicit prompt: chosen and rejected conversations that share their beginning",
    _has_sides,
    {"chosen": [HI, PARIS], "rejected": [HI, LYON]},
)
def _read_implicit(row: Row) -> Iterator[Group]:
    fields = _sides_of(row)
    chosen, rejected = (row.need(f) for f in fields)
    if isinstance(chosen, str) and not looks_like_turns(chosen) and not looks_like_turns(rejected):
        yield _implicit_text(text_of(chosen, fields[0]), text_of(rejected, fields[1]), row)
        return
    yield _implicit_pair(_sides(chosen, fields[0], row), _rejected(row, fields[1]), row)


def _implicit_text(chosen: str, rejected: str, row: Row) -> Group:
    """The prompt is what both texts begin with, less a last space: TRL's `extract_prompt`."""
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise RowError(field, "is empty")
    shortest = min(len(chosen), len(rejected))
    size = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    if 0 < size < shortest and chosen[size - 1] == " ":
        size -= 1
    if size == 0 or not chosen[:size].strip():
        raise RowError("rejected", "shares no prompt with chosen")
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text[size:].strip():
            raise RowError(field, "is nothing but what both sides begin with")
    return _pair(Prompt(text=chosen[:size]), [Completion(chosen[size:])], [Completion(rejected[size:])], row)


def _pair(prompt: Prompt, chosen: list[Completion], rejected: list[Completion], row: Row) -> Group:
    """Chosen before rejected. Ratings beside the sides decide, never the position: equal ones are a tie,
    which `to_shape` drops and counts.
    """
    scores = [1.0] * len(chosen) + [0.0] * len(rejected)
    there = [n for n in SCORES if n[0] in row and n[1] in row]
    whole = (n for n in there if not any(is_missing(row.plain[c]) for c in n))
    names = next(whole, there[0] if there else None)
    if names is not None:
        better, worse = _sides_of(row)
        given = [
            *_scores(row, names[0], len(chosen), better),
            *_scores(row, names[1], len(rejected), worse),
        ]
        scores = scores if None in given else [float(g) for g in given if g is not None]
        if max(scores[: len(chosen)]) < min(scores[len(chosen) :]):
            row.said.add(f"turned round because {names[0]} is below {names[1]}")
    margin = number(row["margin"], "margin") if "margin" in row else None
    notes = {} if margin is None else {"margin": margin}
    kind = "sides" if len(scores) > 2 else "label"
    feedback = tuple(Feedback(s, kind) for s in scores)
    if len(scores) == 2 and (p := _odds(row)) is not None:
        against: tuple[Odds, Odds] = ((None, (p, p)), ((1 - p, 1 - p), None))
        feedback = tuple(replace(f, against=a) for f, a in zip(feedback, against, strict=True))
    return Group(Prompt(prompt.messages, prompt.text, metadata=notes), (*chosen, *rejected), feedback)


Odds = tuple[tuple[float, float] | None, tuple[float, float] | None]


def _odds(row: Row) -> float | None:
    """The probability in column p that the chosen side is better; a column of another kind is the user's."""
    value = row.plain.get("p")
    try:
        p = None if isinstance(value, bool) else number(value, "p")
    except RowError:
        return None
    return number(row["p"], "p") if p is not None and 0 <= p <= 1 else None


def _scores(row: Row, column: str, count: int, side: str) -> list[float | None]:
    """The scores of one side, one for each of its answers. Raises RowError.

    side: the column of the answers; the score of a missing one belongs to nobody.
    """
    value = row[column]
    value = unpacked(value) if isinstance(value, str) else value
    values = value if isinstance(value, list) else [value] * count
    answers = _several(row.plain.get(side), side, row) or ()
    if len(answers) == len(values):
        values = [v for _, _, v in without_missing(answers, values)]
    if len(values) != count:
        raise RowError(column, f"should hold one score per answer ({count})")
    return [number(v, column) for v in values]
