"""Data that is a Python object: rows in a list or a generator, a datasets.Dataset, a table.

It is known by a name made of its content, so the same call resumes a run and another object is another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kilter.data.row import FALSE, TRUE, VALUES, Raw, RowError, absent
from kilter.errors import UserError

PREFIX = "memory:"
"""How the path of such data begins."""

_known: dict[str, Any] = {}


def is_memory(path: str) -> bool:
    """Whether a path names data that is a Python object."""
    return path.startswith(PREFIX)


def is_object(data: Any) -> bool:
    """Whether something holds rows, or splits of rows, and is neither a path nor the fields of a source."""
    return _kind_of(data, SOURCES) is not None or _kind_of(data, SPLITS) is not None


def keep(data: Any, field: str = "data", split: str | None = None) -> str:
    """Makes an object known, and returns the path that names it.

    Args:
        data: mappings in a list or a generator, a Dataset, IterableDataset or DatasetDict of datasets, or a
            table of pandas, polars or pyarrow.
        field: that holds it, for messages.
        split: of a DatasetDict; default: train, or the only one.

    Raises:
        UserError: the object is none of these.
    """
    if _kind_of(data, SPLITS) is not None:
        data = _split_of(data, field, split)
    # What can be gone through only once is hashed first and read later.
    if isinstance(data, Iterator):
        data = [*data]
    if _kind_of(data, SOURCES) is None and not isinstance(data, list | tuple):
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
        digest.update(_written(row).encode())
    path = f"{PREFIX}{digest.hexdigest()[:16]}"
    _known[path] = data
    return path


def _written(row: Mapping[Any, Any]) -> str:
    """A row as text, the same in whatever order its columns stand."""
    try:
        return json.dumps(row, sort_keys=True, default=str)
    except TypeError:  # keys of several types have no order
        return json.dumps(sorted((str(k), repr(v)) for k, v in row.items()))


def _split_of(data: Any, field: str, split: str | None) -> Any:
    """One split of a DatasetDict. Raises UserError where it is not clear which."""
    known = [*data]
    name = split or ("train" if "train" in known or len(known) != 1 else known[0])
    if name not in known:
        given = "(splits)" if split is None else split
        problem = f"has the splits {', '.join(known)}, and no {name}" if known else "has no split"
        choice = known[0] if known else "train"
        fix = f'name one: data={{"path": dataset, "split": "{choice}"}}, or give dataset["{choice}"]'
        raise UserError(field, given, problem, fix)
    return data[name]


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
    # What is streamed may not say what its columns are.
    features = plain.features or {}
    for name, feature in features.items():
        if isinstance(feature, Image | Audio):
            plain = plain.cast_column(name, type(feature)(decode=False))

    # A class is stored as its place among the names, and the first of them may be the good one.
    labels = {
        name: [int(n.lower() in TRUE) for n in feature.names]
        for name, feature in features.items()
        if isinstance(feature, ClassLabel) and {n.lower() for n in feature.names} <= TRUE | FALSE
    }
    rows = (dict(row) for row in plain)
    named = ({k: _named(v, labels.get(k)) for k, v in row.items()} for row in rows) if labels else rows
    yield from absent(named, plain.features or VALUES)


def _named(value: Any, labels: list[int] | None) -> Any:
    """What a class says by its name; -1 is a class that nobody gave."""
    if labels is None or value is None:
        return value
    return labels[value] if value >= 0 else None


def _rows_of(data: Any) -> Iterable[Any]:
    kind = _kind_of(data, SOURCES)
    found: Iterable[Any] = data if kind is None else SOURCES[kind](data)
    return found


def _kind_of(data: Any, known: Iterable[str]) -> str | None:
    """Which of these types an object has, by its library and name."""
    names = (f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(data).__mro__)
    return next((name for name in names if name in known), None)


SOURCES: dict[str, Callable[[Any], Iterable[Any]]] = {
    "datasets.Dataset": plain_rows,
    "datasets.IterableDataset": plain_rows,
    "pandas.DataFrame": lambda table: absent(table.to_dict("records")),
    "polars.DataFrame": lambda table: absent(table.to_dicts()),
    "pyarrow.Table": lambda table: absent(table.to_pylist(), table.schema),
}
"""By library and name of the type, so that none of them is imported for it."""

SPLITS = ("datasets.DatasetDict", "datasets.IterableDatasetDict")
"""Types that hold several data sets by their names."""
