"""Which columns of unknown names may hold what is missing, by their values: hints for `--map`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kilter.data.formats.ask import CHECKED, PROMPTS, first
from kilter.data.formats.registry import IDS, NOTED, SYSTEMS, TOOLS, formats
from kilter.data.row import Raw, RowError, is_missing, label, number, opened
from kilter.data.turns import ROLES, looks_like_turns
from kilter.types import Group, Shape

Names = Mapping[str, str]
"""What the data calls a column, by what a format calls it."""

SORTS = (
    "dataset",
    "model",
    "split",
    "lang",
    "language",
    "level",
    "type",
    "topic",
    "subject",
    "domain",
    "task",
)
"""Columns that sort rows."""

BESIDE = (
    *IDS,
    *NOTED,
    *SYSTEMS,
    *TOOLS,
    *SORTS,
    *(c for c in CHECKED if c not in ("answer", "solution", "solutions")),
)
"""Columns that hold no answer to learn, by their names."""


def unknown(sample: Mapping[str, Any]) -> str:
    """How `--map` can say what the columns of no known format are; "" where none holds text or turns.

    Args:
        sample: a row, with the first value of each column that is not empty.
    """
    # Known names in other spellings: Prompt, CHOSEN, Rejected.
    known = {column for name in formats.names() for column in formats.get(name).example}
    spelled = {_plain(c): c for c in sample if c not in known and _plain(c) in known - sample.keys()}
    if spelled:
        return options(spelled)
    held = {c: v for c, v in sample.items() if c not in BESIDE}
    for column, value in held.items():
        roles = _roles(value)
        if roles:
            return options({"messages" if roles[-1] == "assistant" else "prompt": column})
    asks = first(held, PROMPTS)
    texts = [c for c in _texts({c: [v] for c, v in held.items()}) if c != asks]
    if not texts:
        return ""
    wanted = ("completion",) if asks is not None else ("prompt", "completion")
    return _open(wanted, [c for c in held if c in texts])


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def missing(rows: Sequence[Raw], shape: Shape, unread: Sequence[str], works: Callable[[Names], bool]) -> str:
    """How `--map` can say which of the unread columns hold what a shape needs; "" where none may.

    Args:
        rows: the first ones.
        shape: what the method needs.
        unread: columns that nothing was learned from.
        works: tries names on the rows, so that a hint that is printed is one that works.
    """
    columns = {c: [r[c] for r in rows if not is_missing(r.get(c))] for c in unread if c not in BESIDE}
    texts = _texts(columns)
    # Of a pair one side may be there, under its own name.
    lacking = [side for side in ("chosen", "rejected") if side not in columns]
    if shape == "pairs" and len(lacking) == 2:
        rates = (c for c, values in columns.items() if RATES.fullmatch(c) and _fits(values, number))
        if scored := next((c for c in rates if works({"score": c})), None):
            return options({"score": scored})
        return _open(lacking, texts) if len(texts) > 1 else ""
    tried: dict[str, list[Names]] = {
        "pairs": [{side: c} for side in lacking for c in texts if c not in ("chosen", "rejected")],
        "demonstrations": [{"completion": c} for c in texts],
        "unpaired": [{"label": c} for c, values in columns.items() if _fits(values, label)],
        "ranked": [{"score": c} for c, values in columns.items() if _fits(values, number)],
    }
    return next((options(names) for names in tried.get(shape, ()) if works(names)), "")


RATES = re.compile(r".*(score|reward|rating).*", re.IGNORECASE)
"""Names of columns that may say how good an answer is, where several rows answer one prompt."""

VERDICT = re.compile(r"(is_)?(safe|harmless|helpful|correct|valid|acceptable|accepted|approved|good)")
"""Names of columns that may say what an answer is worth, or what its prompt is."""


def learned_though(groups: Iterable[Group], unread: Collection[str]) -> Counter[str]:
    """Answers that are learned beside a column which may call them bad, by what a person is told of them.

    Args:
        groups: demonstrations.
        unread: columns that nothing was learned from.
    """
    columns = [c for c in unread if VERDICT.fullmatch(c)]
    told = Counter[str]()
    for group in groups if columns else ():
        for column in columns:
            value = group.prompt.columns.get(column)
            if not is_missing(value) and _fits([value], label) and not label(value, column):
                told[
                    f"learned although {column} is false ({options({'label': column})} leaves such out)"
                ] += 1
    return told


def options(names: Names) -> str:
    """The names as options of a command, and as a recipe has them."""
    here = " ".join(f"--map {ours}={theirs}" for ours, theirs in names.items())
    there = ", ".join(f"{ours}: {theirs}" for ours, theirs in names.items())
    return f"{here} (in a recipe map: {{{there}}})"


def _open(wanted: Sequence[str], columns: Sequence[str]) -> str:
    """The options without their columns, which a person has to choose."""
    here = " ".join(f"--map {name}=..." for name in wanted)
    more = " and others" if len(columns) > 6 else ""
    return f"{here} (in a recipe map: {{...}}), from the columns of text: {', '.join(columns[:6])}{more}"


def _texts(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Columns of text, the longest first: an answer says more than a name. Packed lists are none."""
    texts = {c: [v for v in values if isinstance(v, str)] for c, values in columns.items()}
    said = {c: found for c, found in texts.items() if found and isinstance(opened(found[0]), str)}
    words = [c for c, found in said.items() if any(" " in v.strip() for v in found)]
    named = [c for c in said if not c.endswith("id")]
    return sorted(words or named, key=lambda c: -sum(map(len, said[c])))


def _roles(value: Any) -> list[str]:
    """The roles of turns, or of texts by turns; [] for anything else."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) and " " in v for v in value):
        return ["user", "assistant"]
    found = opened(value)
    if isinstance(found, str) or not looks_like_turns([found] if isinstance(found, Mapping) else found):
        return []
    given = [t for t in ([found] if isinstance(found, Mapping) else found) if isinstance(t, Mapping)]
    roles = [ROLES.get(str(t.get("role") or t.get("from")).lower()) for t in given]
    return [] if None in roles else [str(r) for r in roles]


def _fits(values: Sequence[Any], read: Callable[[Any, str], Any]) -> bool:
    """Whether all values can be read so."""
    try:
        return bool(values) and all(read(v, "") is not None for v in values)
    except RowError:
        return False
