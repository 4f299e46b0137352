"""One row of a file: what it holds, what was read of it, and what is wrong with it.

Missing is one thing: null, absent and NaN are the same in every file type, at every depth, and so are "",
"nan", "None" where a number is due. Numbers as text are numbers.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kilter.errors import UserError
from kilter.validation import RepeatedKeyError, unique

Raw = Mapping[str, Any]
"""A row as a file, a data set or a list of Python objects holds it."""


class RowError(ValueError):
    """A row that does not fit its format; `field` is the column to look at, "" where the row is not one.

    value: what stands there, where the row itself cannot show it. fix: what to do, where that is special.
    """

    def __init__(self, field: str, problem: str, value: object = None, fix: str = "") -> None:
        super().__init__(f"field {field!r}: {problem}" if field else problem)
        self.field, self.problem, self.value, self.fix = field, problem, value, fix


OBJECT = json.JSONDecoder(object_pairs_hook=unique)
"""Reads rows. The hook adds a tenth to a third to parsing, and a hundredth to reading a row."""


def twice(error: RepeatedKeyError) -> RowError:
    """What is wrong with a row that names a key twice."""
    problem = "stands twice in one object, which does not say which of the two is meant"
    return RowError(error.key, problem, error.values, "keep one of the two")


class Cells(dict[str, Any]):
    """A row of a table whose cells are all text, such as a CSV file: lists and mappings are written out."""

    def unfolded(self) -> dict[str, Any]:
        """The row with what can be nothing but a mapping or turns read as such, without empty lists."""
        found = {k: _structure(v, k) if isinstance(v, str) else v for k, v in self.items()}
        return {k: v for k, v in found.items() if v is not None}


def _structure(cell: str, column: str) -> Any:
    """A mapping that no answer would be, else the text. JSON may well be what a model is to write.

    None: a list or a mapping that holds nothing.
    """
    found = unpacked(cell)
    if not isinstance(found, str) and is_empty(found):
        return None
    known = STRUCTURES | NESTED.get(column, frozenset())
    return found if isinstance(found, dict) and known & found.keys() else cell


STRUCTURES = {"messages", "replies", "role", "from"}
"""Keys of the mappings that data sets nest: OpenAI's input, trees of OpenAssistant, a turn."""


NESTED: Mapping[str, frozenset[str]] = {
    "question": frozenset(("full_text", "problem")),
    "info": frozenset(("post", "article")),
    "summary": frozenset(("axes",)),
    "label": frozenset(("steps",)),
}
"""By column, further keys of mappings that stand in it, such as WebGPT's question."""


class Row(Mapping[str, Any]):
    """A cleaned row that keeps account of its columns.

    Looking up a column marks it as used. Asking whether it is there does not. `said` holds what its format
    made of it that nobody may expect.

    Args:
        raw: the row; values that are missing are left out of it, at every depth.
        names: what the user calls the columns, by what a format calls them.

    Attributes:
        cells: whether the row is one of text cells, in which a list is written out.
    """

    def __init__(self, raw: Raw, names: Mapping[str, str] | None = None) -> None:
        names = names or {}
        self.cells = isinstance(raw, Cells)
        self.written = renamed(raw.unfolded() if isinstance(raw, Cells) else raw, names)
        self.plain = cleaned(self.written)
        self.used: set[str] = set()
        self.asked: set[str] = set()
        # A column whose name the user has given to another one is not read any more.
        taken = [k for k in names if k in raw and k not in names.values()]
        self.unread: dict[str, None] = dict.fromkeys(taken)
        self.said: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self.plain[name]
        self.used.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self.plain

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain)

    def __len__(self) -> int:
        return len(self.plain)

    def ask(self, name: str) -> Any:
        """A column that makes the prompt. Raises RowError where it is missing."""
        value = self.need(name)
        self.asked.add(name)
        return value

    def need(self, name: str) -> Any:
        """A column that the format cannot do without. Raises RowError where it is missing."""
        if name not in self.plain:
            raise RowError(name, "is missing")
        return self[name]

    def forget(self) -> None:
        """Takes back what was marked as used: another format reads the row."""
        self.used, self.asked, self.said = set(), set(), set()

    def own(self, name: str) -> Any:
        """A column as its user wrote it: a null inside of it is a value."""
        return _valued(self.written[name]) if name in self.written else self.plain[name]

    def left(self) -> dict[str, bool]:
        """What nothing has read: True for a column, which travels, False for a key inside of one."""
        return {n: True for n in self.plain if n not in self.used} | dict.fromkeys(self.unread, False)


def renamed(raw: Raw, names: Mapping[str, str]) -> Raw:
    """The row with its columns called as a format calls them. The user's own column of a name gives way."""
    if not names:
        return raw
    given = set(names.values())
    found = {k: v for k, v in raw.items() if k not in given and k not in names}
    return found | {ours: raw[theirs] for ours, theirs in names.items() if theirs in raw}


def cleaned(value: Raw) -> dict[str, Any]:
    """The row in plain Python values, without anything that is missing. Raises RowError with the column."""
    return dict(_mapping(value))


def _mapping(value: Raw) -> dict[str, Any]:
    found = {}
    for key, item in value.items():
        try:
            plain = _plain(item)
        except RowError as error:
            inner = error.field
            name = f"{key}{inner}" if inner[:1] in ("", "[") else f"{key}.{inner}"
            raise RowError(name, error.problem) from None
        if key in VALUES and plain is not None:
            plain = _valued(item)
        if plain is not None:
            found[_key(key)] = plain
    return found


def _key(key: Any) -> str:
    """The name of a column, or a key inside of one. Raises RowError for what is not text."""
    try:
        return _text(str(key))
    except RowError as error:
        raise RowError("", f"has a key that {error.problem}", ascii(key)) from None


VALUES = frozenset(("arguments", "parameters", "input_schema"))
"""Keys of what a tool is called with, and of its JSON schema. A null in them is a value."""


def _valued(value: Any) -> Any:
    """A value in plain Python, with the nulls in it."""
    if isinstance(value, Mapping):
        return {str(k): _valued(v) for k, v in value.items()}
    value = _as_list(value)
    return [_valued(v) for v in value] if isinstance(value, list | tuple) else _plain(value)


def absent(rows: Iterable[Raw], schema: object = VALUES) -> Iterable[Raw]:
    """The rows of a table, whose calls and schemas may have the keys of all rows: a null in them is no value.

    schema: of the table; where it names none of VALUES, the rows are as they are.
    """
    if not any(key in str(schema) for key in VALUES):
        return rows
    return ({k: _without_nulls(v, False) for k, v in row.items()} for row in rows)


def _without_nulls(value: Any, inside: bool) -> Any:
    """The value without the nulls of mappings below VALUES; `inside`: whether it stands below one of them."""
    if isinstance(value, dict):
        kept = ((k, v) for k, v in value.items() if v is not None or not inside)
        return {k: _without_nulls(v, inside or k in VALUES) for k, v in kept}
    value = _as_list(value)
    return [_without_nulls(v, inside) for v in value] if isinstance(value, list) else value


def _as_list(value: Any) -> Any:
    """A list where the value is an array, as pandas holds the lists of a Parquet file."""
    return value.tolist() if type(value).__name__ == "ndarray" else value


def _items(value: Any) -> list[Any]:
    found = []
    for i, item in enumerate(value):
        try:
            found.append(_plain(item))
        except RowError as error:
            inner = error.field
            name = f"[{i}]{inner}" if inner[:1] in ("", "[") else f"[{i}].{inner}"
            raise RowError(name, error.problem) from None
    return found


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError("", _half(value, error.start)) from None
    return value


def _half(text: str, place: int) -> str:
    """What is wrong with a character that no file can hold."""
    code = ord(text[place])
    if 0xDC80 <= code <= 0xDCFF:
        return f"is not UTF-8: byte 0x{code - 0xDC00:02x} at character {place + 1}"
    return f"holds half a character (\\u{code:04x} at character {place + 1}), which is not text"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _same(value: Any) -> Any:
    return value


PLAIN: dict[type, Callable[[Any], Any]] = {
    str: _text,
    int: _same,
    bool: _same,
    type(None): _same,
    float: _number,
    dict: _mapping,
    list: _items,
    tuple: _items,
}
"""By type, what a value of a row becomes."""

FOREIGN: dict[str, Callable[[Any], Any]] = {
    "NAType": lambda value: None,
    "NaTType": lambda value: None,
    "Timestamp": lambda value: value.isoformat(),
    "datetime": lambda value: value.isoformat(),
    "date": lambda value: value.isoformat(),
    "Decimal": lambda value: _number(float(value)),
    "ndarray": lambda value: _items(value.tolist()),
    "LazyRow": _mapping,
}
"""By the name of the type, so that pandas and NumPy are not imported for it."""


def _plain(value: Any) -> Any:
    """A value in plain Python; None where it is missing. Raises RowError for what no file can hold."""
    kind = type(value)
    change = PLAIN.get(kind) or FOREIGN.get(kind.__name__)
    if change is not None:
        return change(value)
    if kind.__module__ == "numpy":
        return _plain(value.item())
    for base in kind.__mro__:
        if base in PLAIN:
            return PLAIN[base](value)
    raise RowError("", f"holds an object of type {kind.__name__}, which is not text, number, list or mapping")


MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>", "nat"))
"""How people and programs write that a number is not there."""

TRUE = frozenset(("true", "yes", "1", "1.0", "t", "y", "good", "chosen", "accepted", "desirable"))
FALSE = frozenset(("false", "no", "0", "0.0", "f", "n", "bad", "rejected", "undesirable"))


def is_missing(value: Any) -> bool:
    """Whether this stands for no value where a number or a label is due."""
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def given(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these columns with a value; where none has one, the first that is there."""
    there = [n for n in names if n in row]
    plain = row.plain if isinstance(row, Row) else row
    return next((n for n in there if not is_missing(plain[n])), there[0] if there else None)


def is_empty(value: Any) -> bool:
    """Whether a value holds nothing: missing, "", an empty list or mapping, or a list of nothing else."""
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or value in ("", {})


def number(value: Any, field: str) -> float | None:
    """A number, also one written as text; None where it is missing. Raises RowError."""
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowError(field, f"should be a number, found {type(value).__name__}")
    try:
        found = float(value)
    except ValueError:
        raise RowError(field, f"should be a number, found {value!r}") from None
    except OverflowError:
        raise RowError(field, "should be a number below 1e308, and is beyond it") from None
    if math.isnan(found):
        return None
    if math.isinf(found):
        raise RowError(field, f"should be a finite number, found {value!r}")
    return found


def label(value: Any, field: str) -> float | None:
    """1 for true, 0 for false, in whatever way it is written; None where it is missing. Raises RowError."""
    if is_missing(value):
        return None
    text = str(value).strip().lower()
    if text in TRUE or text in FALSE:
        return float(text in TRUE)
    raise RowError(field, f"should be true or false, found {value!r}")


def name(value: Any) -> str:
    """The id of a row: the same for 7, "7" and 7.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def listed(value: Any, field: str, of: str = "values") -> list[Any]:
    """A list, also one that a text column holds as JSON or as Python writes it. Raises RowError."""
    found = unpacked(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise RowError(field, f"should be a list of {of}, found {type(found).__name__}")
    return found


def without_missing(texts: Sequence[Any], numbers: Sequence[Any]) -> list[tuple[int, Any, Any]]:
    """(place, text, number) of two lists that belong together, where the text is there."""
    both = enumerate(zip(texts, numbers, strict=True))
    return [(place, text, number) for place, (text, number) in both if text is not None]


_PACKED = re.compile(r"\s*[\[{]")


def unpacked(text: str) -> Any:
    """What a text holds that was a list or a mapping before it was written into a text column.

    Returns:
        The cleaned list or mapping, or the text itself.

    Raises:
        RowError: a key stands twice in what the text holds.
    """
    if not _PACKED.match(text):
        return text
    # JSON first. Python's own way of writing lists is what pandas leaves in a CSV file.
    for read in (OBJECT.decode, ast.literal_eval):
        try:
            found = read(text)
        except RepeatedKeyError as error:
            raise twice(error) from None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return _plain(found) if isinstance(found, list | dict) else text
    return text


def opened(value: Any) -> Any:
    """What a text holds, for telling formats apart; one that cannot be read stays text."""
    try:
        return unpacked(value) if isinstance(value, str) else value
    except RowError:
        return value


def check_names(names: Mapping[str, str], field: str) -> None:
    """Raises UserError where two columns are to become one."""
    theirs = list(names.values())
    for value in theirs:
        if theirs.count(value) > 1:
            raise UserError(field, dict(names), f"uses the column {value!r} twice", "name each column once")
