"""How much room the rows of Parquet and Arrow files take as Python values, known before any is made.

A list can name one long text a million times, and a packed buffer can hold a thousand times its size. Both
are small in the file, and small in Arrow's memory. They are measured there, and refused by name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Sizes = npt.NDArray[np.int64]
"""[n] characters or numbers in each value of an array."""

AT_MOST = 1 << 22
"""Characters and numbers of the rows that are made at once, unless one row has more."""


def row_sizes(batch: pa.RecordBatch) -> Sizes:
    """[rows] characters and numbers of each row as Python values."""
    return sum((sizes(column) for column in batch.columns), np.ones(batch.num_rows, np.int64))


def slices(found: Sizes) -> Iterator[tuple[int, int]]:
    """(first row, how many) of runs of rows that are small together."""
    start, total = 0, 0
    for place, size in enumerate(found.tolist()):
        if place > start and total + size > AT_MOST:
            yield start, place - start
            start, total = place, 0
        total += size
    if start < len(found):
        yield start, len(found) - start


def sizes(array: pa.Array) -> Sizes:
    """[n] characters or numbers in each value, whatever it is nested in."""
    import pyarrow as pa

    kind = array.type
    for fits, measure in _MEASURES:
        if getattr(pa.types, fits)(kind):
            return measure(array)
    if kind.num_fields:
        # Unions and what is yet to come: no value is larger than all of them.
        return np.full(len(array), array.nbytes + len(array), np.int64)
    return np.ones(len(array), np.int64)


def _texts(array: pa.Array) -> Sizes:
    import pyarrow.compute as pc

    return _whole(pc.binary_length(array)) + 1


def _whole(array: pa.Array) -> Sizes:
    """Lengths as numbers; what is null has none."""
    import pyarrow.compute as pc

    found: Sizes = pc.fill_null(array, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _named(array: pa.Array) -> Sizes:
    """Values that stand in a dictionary once."""
    import pyarrow.compute as pc

    known = np.append(sizes(array.dictionary), 1)
    indices: npt.NDArray[np.int64] = (
        pc.fill_null(array.indices, len(known) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return known[indices]


def _run_ends(array: pa.Array) -> Sizes:
    """Values that stand there once for many rows."""
    ends = array.run_ends.to_numpy(zero_copy_only=False)
    places = np.searchsorted(ends, np.arange(array.offset, array.offset + len(array)), side="right")
    return sizes(array.values)[places]


def _lists(array: pa.Array) -> Sizes:
    ends = _summed(array.values)
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return _between(ends, offsets[:-1], offsets[1:])


def _maps(array: pa.Array) -> Sizes:
    ends = _summed(array.keys) + _summed(array.items)
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return _between(ends, offsets[:-1], offsets[1:])


def _views(array: pa.Array) -> Sizes:
    """Lists that may share what they hold."""
    ends = _summed(array.values)
    first, count = (_whole(part) for part in (array.offsets, array.sizes))
    return _between(ends, first, first + count)


def _fixed(array: pa.Array) -> Sizes:
    width = array.type.list_size
    ends = _summed(array.values)
    first = (np.arange(len(array)) + array.offset) * width
    return _between(ends, first, first + width)


def _structs(array: pa.Array) -> Sizes:
    parts = (sizes(part) for part in array.flatten())
    return sum(parts, np.ones(len(array), np.int64))


def _summed(array: pa.Array) -> Sizes:
    """[n + 1] sizes of all values before each place."""
    return np.concatenate([[0], np.cumsum(sizes(array))])


def _between(ends: Sizes, first: Sizes, last: Sizes) -> Sizes:
    """Sizes of lists from the sums before their first and behind their last value."""
    found: Sizes = 1 + ends[last] - ends[first]
    return found


_MEASURES: tuple[tuple[str, Callable[[Any], Sizes]], ...] = (
    ("is_dictionary", _named),
    ("is_run_end_encoded", _run_ends),
    ("is_string", _texts),
    ("is_large_string", _texts),
    ("is_binary", _texts),
    ("is_large_binary", _texts),
    ("is_fixed_size_binary", _texts),
    ("is_string_view", _texts),
    ("is_binary_view", _texts),
    ("is_map", _maps),
    ("is_list", _lists),
    ("is_large_list", _lists),
    ("is_list_view", _views),
    ("is_large_list_view", _views),
    ("is_fixed_size_list", _fixed),
    ("is_struct", _structs),
)
"""pyarrow's question about a type, and how its values are measured."""


def unpacked(message: pa.Message) -> tuple[int, int]:
    """(bytes, rows) of one message of an Arrow file once its buffers are unpacked, read from its head.

    The head is a flatbuffer (arrow.apache.org/docs/format, Message.fbs). A packed buffer begins with its
    length.

    Raises:
        ValueError: the head is damaged.
    """
    try:
        head, body = message.metadata.to_pybytes(), message.body
        batch = _Table.root(head).table(2)
        kind = _Table.root(head).number(1, "B")
        if kind == _DICTIONARY:
            batch = batch.table(1)
        if kind not in (_DICTIONARY, _BATCH) or body is None:
            return 0, 0
        view = memoryview(body)
        packed, total = batch.has(3), 0
        for start, length in batch.pairs(2):
            own = struct.unpack_from("<q", view, start)[0] if packed and length >= 8 else -1
            total += length if own < 0 else own
        return total, batch.number(0, "q")
    except struct.error as error:
        raise ValueError(f"its head is damaged: {error}") from error


_DICTIONARY, _BATCH = 2, 3
"""Kinds of messages."""


class _Table:
    """A table of a flatbuffer: fields by number, each at an offset that a table of offsets gives."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.offsets = at - struct.unpack_from("<i", data, at)[0]
        self.count = (struct.unpack_from("<H", data, self.offsets)[0] - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """The table that the buffer is about."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _place(self, field: int) -> int:
        if field >= self.count:
            return 0
        offset: int = struct.unpack_from("<H", self.data, self.offsets + 4 + 2 * field)[0]
        return self.at + offset if offset else 0

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return bool(self._place(field))

    def number(self, field: int, kind: str) -> int:
        """A number of struct's kind; 0 where it is not there."""
        place = self._place(field)
        return int(struct.unpack_from(f"<{kind}", self.data, place)[0]) if place else 0

    def _follow(self, field: int) -> int:
        place = self._place(field)
        if not place:
            raise struct.error(f"field {field} is missing")
        return place + int(struct.unpack_from("<I", self.data, place)[0])

    def table(self, field: int) -> _Table:
        """A table below this one."""
        return _Table(self.data, self._follow(field))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of pairs of long numbers."""
        start = self._follow(field)
        for n in range(struct.unpack_from("<I", self.data, start)[0]):
            yield struct.unpack_from("<qq", self.data, start + 4 + 16 * n)
