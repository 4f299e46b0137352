"""Numbers of an answer's tokens: they read like a tuple, and take the room of an array.

A tuple keeps some 35 bytes for a token id and 32 for a log-prob, and a step of a large run samples millions.
NumPy's own arrays compare number by number, so that an answer that holds one is equal to nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T", int, float)

IDS, MASK, LOGPS = "Hiq", "Bq", "fd"
"""Types of `array` by what they hold, the smallest first."""


class Numbers(Sequence[T]):
    """Equal to the tuple of the same numbers, and as constant. Slices and sums are tuples.

    Args:
        held: nobody changes it any more.
    """

    __slots__ = ("held",)

    def __init__(self, held: array[Any]) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        found = self.held[index]
        return tuple(found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[T]:
        return iter(self.held)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """What NumPy makes of the tuple, in types that do not overflow, without reading one by one."""
        import numpy as np

        return np.array(self.held, dtype or ("float64" if self.held.typecode in LOGPS else "int64"))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbers):
            return bool(self.held == other.held)
        if isinstance(other, tuple):
            return len(self) == len(other) and tuple(self) == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Sequence[Any]) -> tuple[Any, ...]:
        return (*self, *other) if isinstance(other, tuple | Numbers) else NotImplemented

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*other, *self) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        return repr(tuple(self))


def packed(values: Sequence[T], types: str) -> Sequence[T]:
    """The numbers in the first type that gives all of them back; as they are, where none does."""
    if isinstance(values, Numbers):
        return values
    # What can be read once only would lose what the first type has read.
    values = values if isinstance(values, Sequence) else list(values)
    for kind in types:
        try:
            held = array(kind, values)
        except (OverflowError, TypeError):
            continue
        # `array` refuses an integer that is too large for its type, and rounds a float without a word.
        if types != LOGPS or held.tolist() == list(values):
            return Numbers(held)
    return values
