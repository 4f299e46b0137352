"""Tokens of rollouts beside groups.jsonl: numbers as arrays, where JSON would take four times the room.

    groups.jsonl    {..., "completions": [{"text": ..., "tokens": [0, 0, 48]}], "tokens": "groups.tokens"}
    groups.tokens   a block per step: three arrays in NumPy's npy format, one after the other

A completion's place is [byte where its block begins, first token, end]. The arrays are token ids, sampling
log-probs and the mask, which is packed to bits. A block reaches the disk before the rows that name it: what
a row names is whole, and what no row names is cut when the run goes on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kilter.artifacts import append_bytes, cut_bytes
from kilter.errors import UserError
from kilter.types import Completion, Group

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "token_ids": ("uint16", "int32", "int64"),
    "sampling_logps": ("float32", "float64"),
    "mask": ("bool",),
}
"""What a block holds in this order, each in the first of its types that gives back the same numbers."""

SUFFIX = ".tokens"

Columns = dict[str, list[Any]]


def append(path: Path, groups: Sequence[Group]) -> list[list[tuple[int, int, int] | None]]:
    """Writes a block with the tokens of these groups, flushed to the disk.

    Args:
        path: the file of blocks.
        groups: of one step.

    Returns:
        The place of every completion; None for one whose numbers a block cannot hold.
    """
    held = [[_fits(c) for c in g.completions] for g in groups]
    stored = [
        c
        for g, row in zip(groups, held, strict=True)
        for c, fits in zip(g.completions, row, strict=True)
        if fits
    ]
    if not stored:
        return [[None] * len(row) for row in held]
    at = append_bytes(path, _block(stored))

    # Places are dealt out in the order in which the numbers were written.
    places, end = list[list[tuple[int, int, int] | None]](), 0
    for group, row in zip(groups, held, strict=True):
        places.append([])
        for completion, fits in zip(group.completions, row, strict=True):
            start, end = end, end + (len(completion.token_ids or ()) if fits else 0)
            places[-1].append((at, start, end) if fits else None)
    return places


def _fits(completion: Completion) -> bool:
    """Whether a block can give back what the completion holds; else all of it stays in the row."""
    columns = [getattr(completion, name) for name in COLUMNS]
    if None in columns:
        return False
    return len({len(values) for values in columns}) == 1 and not set(completion.mask or ()) - {0, 1}


def _block(completions: Sequence[Completion]) -> bytes:
    """The arrays of a block, ready to be written."""
    buffer = io.BytesIO()
    for name, types in COLUMNS.items():
        values = _exact([getattr(c, name) for c in completions], types)
        np.lib.format.write_array(buffer, np.packbits(values) if name == "mask" else values, (1, 0), False)
    return buffer.getvalue()


def _exact(values: Sequence[Sequence[Any]], types: Sequence[str]) -> NDArray[Any]:
    """The numbers in the first type that gives all of them back; the last one holds whatever comes."""
    whole = np.concatenate([np.asarray(v, types[-1]) for v in values])
    for name in types[:-1]:
        # A number beyond a small type's range comes back as another one, which is what is looked for.
        with np.errstate(over="ignore", invalid="ignore"):
            small = whole.astype(name)
        if np.array_equal(small.astype(types[-1]), whole, equal_nan=whole.dtype.kind == "f"):
            return small
    return whole


class Reader:
    """Puts the tokens back into rows. The last block read is kept, for neighbours share it.

    `path`: the file of rows.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._last: tuple[str, int] = ("", -1)
        self._block: Columns = {}

    def filled(self, row: Any) -> Any:
        """A row with the numbers of its completions; one that names no block as it is.

        Raises:
            UserError: the file of blocks is missing or damaged.
        """
        name = row.get("tokens") if isinstance(row, dict) else None
        # A user's own column of this name is nobody's reference.
        if (
            not isinstance(name, str)
            or not name.endswith(SUFFIX)
            or not isinstance(row.get("completions"), list)
        ):
            return row
        completions = [self._filled(name, c) for c in row["completions"]]
        return {k: v for k, v in row.items() if k != "tokens"} | {"completions": completions}

    def _filled(self, name: str, completion: Any) -> Any:
        place = completion.get("tokens") if isinstance(completion, dict) else None
        if place is None:
            return completion
        try:
            at, start, end = map(int, place)
            if (name, at) != self._last:
                self._block, self._last = self._read(name, at), (name, at)
            if not 0 <= start <= end <= len(self._block["token_ids"]):
                raise ValueError("a row names tokens that its block does not have")
        except (OSError, ValueError, TypeError) as error:
            fix = f"put {name} back beside the file of rows: the two belong together"
            raise _lost(self.folder / name, error, fix) from error
        kept = {k: v for k, v in completion.items() if k != "tokens"}
        return kept | {column: self._block[column][start:end] for column in COLUMNS}

    def _read(self, name: str, at: int) -> Columns:
        """The numbers of a block."""
        # Rows may come from anywhere: they make nobody read a file of another folder.
        if Path(name).name != name:
            raise ValueError("a row names a file of another folder")
        with (self.folder / name).open("rb") as file:
            file.seek(at)
            arrays = [_array(file) for _ in COLUMNS]
        count = len(arrays[0])
        found = dict(zip(COLUMNS, arrays, strict=True))
        found["mask"] = np.unpackbits(found["mask"], count=count)
        if any(len(values) != count for values in found.values()):
            raise ValueError("the arrays of a block differ in length")
        return {column: values.tolist() for column, values in found.items()}


def _array(file: IO[bytes]) -> NDArray[Any]:
    """The next array, of plain numbers and no longer than what is left of the file."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("a block is of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if len(shape) != 1 or dtype.kind not in "iuf" or shape[0] * dtype.itemsize > left:
        raise ValueError("a block is cut short")
    return np.frombuffer(file.read(shape[0] * dtype.itemsize), dtype)


def cut(path: Path, last: int | None) -> None:
    """Cuts a file of blocks behind the block that begins at `last`; None: no row names a block any more.

    Raises:
        UserError: that block is missing or damaged, so that rows would name what is not there.
    """
    if last is None:
        if path.exists():
            cut_bytes(path, 0)
        return
    try:
        with path.open("rb") as file:
            file.seek(last)
            for _ in COLUMNS:
                _array(file)
            end = file.tell()
    except (OSError, ValueError) as error:
        raise _lost(path, error, f"put it back, or remove {path.parent} to begin this run anew") from error
    cut_bytes(path, end)


def _lost(path: Path, error: Exception, fix: str) -> UserError:
    said = error.strerror if isinstance(error, OSError) else error
    problem = f"holds the tokens of these rollouts and cannot be read ({said})"
    return UserError("file", str(path), problem, fix)
