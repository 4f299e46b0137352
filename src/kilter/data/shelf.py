"""Long sequences on disk: what does not fit into memory is written once and read item by item."""

from __future__ import annotations

import itertools
import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

IN_MEMORY = 20_000
"""Items up to which a sequence stays a list; beyond it is kept in a temporary file."""


class Shelf(Sequence[T], Generic[T]):
    """Items in a temporary file, which goes when nobody holds the shelf any more.

    Args:
        items: written one after the other, never held together.
    """

    def __init__(self, items: Iterable[T]) -> None:
        descriptor, self.path = tempfile.mkstemp(prefix="kilter-", suffix=".shelf")
        weakref.finalize(self, _remove, self.path, os.getpid())
        self.starts = array("q", [0])
        with os.fdopen(descriptor, "wb") as file:
            for item in items:
                self.starts.append(self.starts[-1] + file.write(pickle.dumps(item, pickle.HIGHEST_PROTOCOL)))
        self._file = open(self.path, "rb")  # noqa: SIM115 - open as long as the shelf is

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return View(self, array("q", range(*place.indices(len(self)))))
        index = place + len(self) if place < 0 else place
        if not 0 <= index < len(self):
            raise IndexError(place)
        start, end = self.starts[index], self.starts[index + 1]
        item: T = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        return item

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the same file."""
        return {"path": self.path, "starts": self.starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.starts = state["path"], state["starts"]
        self._file = open(self.path, "rb")  # noqa: SIM115 - open as long as the shelf is


def _remove(path: str, owner: int) -> None:
    """Removes the file; a process that was forked off leaves it to its maker."""
    if os.getpid() == owner and os.path.exists(path):
        os.unlink(path)


class View(Sequence[T], Generic[T]):
    """Some items of a sequence, in an order of their own, each as often as it is named."""

    def __init__(self, items: Sequence[T], places: array[int]) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return View(self.items, self.places[place])
        return self.items[self.places[place]]


def shelved(items: Iterable[T]) -> Sequence[T]:
    """The items as a list, or on disk where they are many."""
    source: Iterator[T] = iter(items)
    begin = list(itertools.islice(source, IN_MEMORY + 1))
    return begin if len(begin) <= IN_MEMORY else Shelf(itertools.chain(begin, source))


def picked(items: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """Some items, in this order: a list of a list, a view of what lies on disk."""
    return [items[i] for i in places] if isinstance(items, list) else View(items, array("q", places))
