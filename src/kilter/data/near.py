"""Texts that are nearly the same: MinHash sketches, their bands sorted on disk, and every hit verified.

The sketches are datasketch's and the bands are those of its MinHashLSH. Its tables take 3 KB a text, so that
a million texts do not fit. Here the sketches lie in a file, and one band after the other is sorted: what
falls together is the same, and 16 bytes a text are held.
"""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from kilter.hashes import number

SHINGLE, PERMUTATIONS, THRESHOLD = 5, 128, 0.8
RECALL = (0.1, 0.9)
"""Weights of wrong hits and of misses. A wrong hit costs a comparison, for every hit is verified."""

HEADS = 16
"""Texts of a bucket that each of its texts is compared with; what resembles none of them stays apart."""

PART = 1 << 16
"""Sketches that are read from disk at a time."""

SCHEME = "affine32"
Text = Callable[[int], str]


INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Characters that no reader sees: joiners, marks of direction, byte order marks, empty fillers."""


def plain(text: str) -> str:
    """What a reader sees of a text: white space normalised, accents in one form, nothing invisible."""
    if not text.isascii():
        text = INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def normal(text: str) -> str:
    """What a reader sees of a text, in lower case."""
    return plain(text).lower()


def shingles(text: str) -> frozenset[str]:
    """Its character 5-grams; a shorter text is one itself."""
    return frozenset(text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared 5-grams among all 5-grams, exactly."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def _hashes(text: str) -> npt.NDArray[np.uint32]:
    """A 32-bit hash of each distinct 5-gram."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    size = max(1, len(codes) - SHINGLE + 1)
    mixed = np.zeros(size, dtype=np.uint64)
    for place in range(min(SHINGLE, len(codes))):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + size]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


class Sketches:
    """One MinHash per text, in a temporary file that goes with the process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="kilter-", suffix=".sketch")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._permutations = MinHash(num_perm=PERMUTATIONS, scheme=SCHEME).permutations
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, text: str) -> None:
        """Sketches one more text, which should be normalised."""
        sketch = MinHash(PERMUTATIONS, scheme=SCHEME, hashfunc=_as_it_is, permutations=self._permutations)
        sketch.update_batch(_hashes(text).tolist())
        self._file.write(sketch.hashvalues.astype(np.uint32).tobytes())
        self.count += 1

    def bands(self) -> Iterator[npt.NDArray[np.uint64]]:
        """Band after band: one key per text, equal where the band is."""
        if not self.count:
            return
        self._file.flush()
        count, rows = _bands()
        for band in range(count):
            yield np.concatenate([_keys(part[:, band * rows : (band + 1) * rows]) for part in self._parts()])

    def _parts(self) -> Iterator[npt.NDArray[np.uint32]]:
        """The sketches, so many at a time: a mapped file would come to lie in memory as a whole."""
        width = 4 * PERMUTATIONS
        for start in range(0, self.count, PART):
            part = os.pread(self._file.fileno(), PART * width, start * width)
            yield np.frombuffer(part, np.uint32).reshape(-1, PERMUTATIONS)


def _keys(columns: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """One key for each row of a band."""
    keys = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        keys = (keys ^ column) * np.uint64(0xD6E8FEB86659FD93)
        keys ^= keys >> np.uint64(32)
    return keys


def _as_it_is(value: int) -> int:
    return value


def _bands() -> tuple[int, int]:
    """Number of bands and rows of each, as datasketch finds them for the threshold."""
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, weights=RECALL)
    return lsh.b, lsh.r


class Union:
    """Union-find over the numbers 0 to n - 1."""

    def __init__(self, n: int) -> None:
        self.parent = array("q", range(n))

    def root(self, item: int) -> int:
        """The least number that an item is joined with."""
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, first: int, second: int) -> None:
        """Makes two items, and all that each is joined with, one."""
        low, high = sorted((self.root(first), self.root(second)))
        self.parent[high] = low


class Distinct:
    """Distinct texts, told apart by 63 bits each: they are sketched once, and no text is held."""

    def __init__(self) -> None:
        self.sketches = Sketches()
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, text: str) -> int:
        """The number of a text, which should be normalised, in the order in which they came."""
        place = self._places.setdefault(number(text), len(self._places))
        if place == len(self.sketches):
            self.sketches.add(text)
        return place


def joined(sketches: Sketches, text: Text) -> list[int]:
    """The cluster of each text, named by its first member.

    Args:
        sketches: of all texts.
        text: gives a text, normalised as it was sketched.
    """
    union = Union(len(sketches))
    grams = lru_cache(maxsize=512)(lambda place: shingles(text(place)))
    for keys in sketches.bands():
        for bucket in _buckets(keys):
            _join_bucket(bucket, union, grams)
    return [union.root(i) for i in range(len(sketches))]


def _buckets(keys: npt.NDArray[np.uint64]) -> Iterator[list[int]]:
    """Places with the same key, where there are several."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        yield order[start : start + size].tolist()


def _join_bucket(bucket: Sequence[int], union: Union, grams: Callable[[int], frozenset[str]]) -> None:
    """Joins what the exact index confirms; of a large bucket each text meets the first of every cluster."""
    heads: list[int] = []
    for place in bucket:
        root = union.root(place)
        if any(union.root(head) == root for head in heads):
            continue
        near = next((h for h in heads if jaccard(grams(h), grams(place)) >= THRESHOLD), None)
        if near is not None:
            union.join(near, place)
        elif len(heads) < HEADS:
            heads.append(place)


def clusters(texts: Sequence[str]) -> list[int]:
    """The cluster of each text of a list, named by its first member."""
    plain = [normal(t) for t in texts]
    sketches = Sketches()
    for text in plain:
        sketches.add(text)
    return joined(sketches, plain.__getitem__)


def across(one: Sketches, other: Sketches, one_text: Text, other_text: Text) -> set[tuple[int, int]]:
    """Places (of one, of the other) whose texts are nearly the same, each hit verified."""
    found: set[tuple[int, int]] = set()
    grams = lru_cache(maxsize=512)(lambda place: shingles(one_text(place)))
    others = lru_cache(maxsize=512)(lambda place: shingles(other_text(place)))
    for keys, theirs in zip(one.bands(), other.bands(), strict=False):
        order = np.argsort(theirs, kind="stable")
        first = np.searchsorted(theirs, keys, "left", sorter=order)
        last = np.searchsorted(theirs, keys, "right", sorter=order)
        for place in np.flatnonzero(last > first).tolist():
            for hit in order[first[place] : min(last[place], first[place] + HEADS)].tolist():
                if (place, hit) not in found and jaccard(grams(place), others(hit)) >= THRESHOLD:
                    found.add((place, hit))
    return found
