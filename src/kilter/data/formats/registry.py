"""Formats by name: what a row looks like, and what turns it into groups.

Scores are ordinal within a group: chosen 1, rejected 0; ratings and ranks keep their own values (a rank r is
stored as -r, so higher is always better). A row that does not fit raises RowError with the field's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from kilter.data.formats.ask import CONVERSATIONS, PROMPTS, as_turn
from kilter.data.row import Raw, Row, RowError, is_empty, is_missing, name, unpacked
from kilter.data.turns import MEDIA, tools_of
from kilter.errors import UserError, nearest
from kilter.registry import Registry
from kilter.types import Group, Message, Prompt

Reader = Callable[[Any], Iterator[Group]]
"""From a row to its groups."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing preferences down.

    Args:
        name: what `data.format` calls it.
        description: what a row looks like, in one line.
        detect: whether a row is of this format; it sees the row without what is missing.
        read: yields the groups of one row.
        example: a row.
        system: whether a column `system` goes before its prompt.
        asks: the column of its prompt. A row that has a better one, such as prompt, is of another format.
    """

    name: str
    description: str
    detect: Callable[[Mapping[str, Any]], bool]
    read: Reader
    example: Raw = field(default_factory=dict)
    system: bool = True
    asks: str = ""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is of this format."""
        known = (*PROMPTS, *CONVERSATIONS)
        better = known[: known.index(self.asks)] if self.asks in known else known
        return self.detect(row) and not (self.asks and any(c in row for c in better))

    def groups(self, row: Row) -> list[Group]:
        """The groups of a row, with what stands beside its prompt. Raises RowError."""
        refuse_media(row)
        return [dressed(g, row, self.system) for g in self.read(row)]


formats: Registry[Format] = Registry("format")
"""By name; `data.format: my_file.py:read` names a reader of one's own."""


def data_format(
    name: str,
    description: str,
    detect: Callable[[Mapping[str, Any]], bool],
    example: Raw | None = None,
    system: bool = True,
    asks: str = "",
) -> Callable[[Reader], Reader]:
    """Decorator: registers a reader of rows.

    Formats that are registered earlier are tried earlier on unknown rows.

    Args:
        name: what `data.format` calls it.
        description: what a row looks like, in one line.
        detect: whether a row is of this format.
        example: a row, for `kilter data formats`.
        system: whether a column `system` goes before its prompt.
        asks: the column of its prompt, where a row with a better one is of another format.
    """

    def add(read: Reader) -> Reader:
        formats.register(name)(Format(name, description, detect, read, example or {}, system, asks))
        return read

    return add


def reader(name: str, field: str = "data.format") -> Reader:
    """What turns a row of this format into groups; a reader of the user's own gets the row as it is.

    Raises UserError for an unknown name or an object that cannot be called.
    """
    if ":" not in name and name not in formats.names():
        raise UserError(
            field, name, "is not a known format", nearest(name, ["auto", "groups", *formats.names()])
        )
    found: Any = formats.get(name, field)
    if isinstance(found, Format):
        return lambda row: iter(found.groups(row if isinstance(row, Row) else Row(row)))
    if not callable(found):
        raise UserError(
            field, name, "is not a function", "give file.py:read, a function from a row to Groups"
        )
    return cast(Reader, found)


def detect(row: Mapping[str, Any]) -> Format | None:
    """The first format whose detector accepts this row."""
    # The order of registration goes from the most specific to the least.
    return next((f for f in formats.in_order() if f.fits(row)), None)


def refuse_media(row: Row) -> None:
    """Raises RowError for a picture, a video or a sound: the model would learn answers about nothing."""
    for column in filter(MEDIA.fullmatch, row):
        if not is_empty(row[column]):
            fix = "remove the column if the answers do not need it"
            raise RowError(column, f"holds {column}, which a text model cannot read", fix=fix)


NOTED = ("category", "subcategory", "source", "annotator")
"""Columns that checks and reports look at by name."""

IDS = ("id", "prompt_id", "ID")
"""Columns that name a row; the first one counts."""

SYSTEMS = ("system", "system_prompt")
"""Columns with a system message; the first one counts."""

TOOLS = ("tools", "functions")
"""Columns with the tools that a template lists; the first one counts."""


def dressed(group: Group, row: Row, system: bool = True) -> Group:
    """The group with what stands beside every format's own columns: system, tools, id, notes."""
    prompt = group.prompt
    column = _filled(row, SYSTEMS)
    if column is not None and system:
        prompt = with_system(prompt, column, row)
    column = _filled(row, TOOLS)
    if column is not None:
        row.asked.add(column)
        prompt = replace(prompt, tools=tools_of(row[column], column))
    if "chat_template_kwargs" in row:
        row.asked.add("chat_template_kwargs")
        prompt = replace(
            prompt, template_kwargs=_mapping(row["chat_template_kwargs"], "chat_template_kwargs")
        )
    column = next((c for c in IDS if c in row), None)
    if column is not None and not prompt.id:
        prompt = replace(prompt, id=name(row[column]))
    notes = {k: row.plain[k] for k in NOTED if k in row}
    return replace(group, prompt=replace(prompt, metadata={**notes, **prompt.metadata}))


def _filled(row: Row, names: Sequence[str]) -> str | None:
    """The first of these columns that holds something. Those that hold nothing are read all the same."""
    row.used |= {n for n in names if n in row and is_empty(row.plain[n])}
    return next((n for n in names if n in row and not is_empty(row.plain[n])), None)


def with_system(prompt: Prompt, column: str, row: Row) -> Prompt:
    """The prompt after the system message of its row. Raises RowError where it has another one."""
    said = row[column]
    row.asked.add(column)
    if not isinstance(said, str):
        raise RowError(column, f"should be text, found {type(said).__name__}")
    if is_missing(said):
        return prompt
    prompt = as_turn(prompt, row.said.add)
    own = prompt.messages
    if own[0]["role"] in ("system", "developer"):
        if own[0]["content"].strip() == said.strip():
            return prompt
        raise RowError(column, "stands beside a conversation that has a system message of its own")
    return replace(prompt, messages=(Message(role="system", content=said), *own))


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    value = unpacked(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise RowError(field, f"should be a mapping, found {type(value).__name__}")
    return value
