"""Data that is a Python object: a list of rows, a datasets.Dataset, a pandas table.

It is known by a name made of its content, so the same call resumes a run and another object is another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kilter.data.row import FALSE, TRUE, Raw, RowError, absent
from kilter.errors import UserError

PREFIX = "memory:"
"""How the path of such data begins."""

_known: dict[str, Any] = {}


def is_memory(path: str) -> bool:
    """Whether a path names data that is a Python object."""
    return path.startswith(PREFIX)


def keep(data: Any, field: str = "data") -> str:
    """Makes an object known, and returns the path that names it.

    Args:
        data: a list of mappings, a datasets.Dataset, or a pandas.DataFrame.
        field: that holds it, for messages.

    Raises:
        UserError: the object is none of these.
    """
    if type(data).__name__ not in SOURCES and not isinstance(data, list | tuple):
        raise UserError(
            field,
            type(data).__name__,
            "is not data that can be read",
            "give a path, a list of mappings, a datasets.Dataset or a pandas.DataFrame",
        )
    digest = hashlib.sha256()
    for row in _rows_of(data):
        if not isinstance(row, Mapping):
            raise UserError(field, row, "is not a row", "give a list of mappings such as {'prompt': ...}")
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    path = f"{PREFIX}{digest.hexdigest()[:16]}"
    _known[path] = data
    return path


def rows(path: str, field: str) -> Iterator[tuple[str, Raw | RowError]]:
    """The rows of an object that was kept. Raises UserError where this process has not seen it."""
    if path not in _known:
        raise UserError(
            field, path, "is an object of another process", "give the object again, or write it to a file"
        )
    for index, row in enumerate(_rows_of(_known[path]), start=1):
        yield f"row {index}", row


def plain_rows(table: Any) -> Iterator[Raw]:
    """The rows of a datasets.Dataset as Python values; pictures and sounds stay undecoded."""
    from datasets import Audio, ClassLabel, Image

    plain = table.with_format(None)
    for name, feature in plain.features.items():
        if isinstance(feature, Image | Audio):
            plain = plain.cast_column(name, type(feature)(decode=False))

    # A class is stored as its place among the names, and the first of them may be the good one.
    labels = {
        name: [int(n.lower() in TRUE) for n in feature.names]
        for name, feature in plain.features.items()
        if isinstance(feature, ClassLabel) and {n.lower() for n in feature.names} <= TRUE | FALSE
    }
    rows = (dict(row) for row in plain)
    named = ({k: _named(v, labels.get(k)) for k, v in row.items()} for row in rows) if labels else rows
    yield from absent(named, plain.features)


def _named(value: Any, labels: list[int] | None) -> Any:
    """What a class says by its name; -1 is a class that nobody gave."""
    if labels is None or value is None:
        return value
    return labels[value] if value >= 0 else None


def _rows_of(data: Any) -> Iterable[Any]:
    read = SOURCES.get(type(data).__name__)
    found: Iterable[Any] = data if read is None else read(data)
    return found


SOURCES: dict[str, Callable[[Any], Iterable[Any]]] = {
    "Dataset": plain_rows,
    "DataFrame": lambda table: absent(table.to_dict("records")),
}
"""By the name of the type, so that neither library is imported for it."""
