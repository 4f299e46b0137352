"""What a check reports: a level, a value in words, numbers, and the rows that it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warn", "error", "not checked"]

SHOWN = 50
"""Ids that a finding names; the flags of all rows stand in flags.jsonl."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one check looks for.

    Args:
        name: in --drop, in `waive`, and in the flags of a row.
        title: for a person.
        meaning: why it matters, as the end of a sentence.
        fix: what to do, in the imperative.
    """

    name: str
    title: str
    meaning: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. Texts of the data never stand in it.

    Args:
        check: name of its rule.
        title: of its rule.
        level: ok, warn, error, or not checked; of the last one `value` says why.
        value: what was measured, in words.
        meaning: why it matters.
        fix: what to do about it.
        numbers: what was measured, for programs.
        ids: the first rows that it concerns.
        count: how many rows it concerns.
        waived: why a person lets an error pass; "" for nobody does.
        head, table: further numbers by name, for the page.
    """

    check: str
    title: str
    level: Level
    value: str
    meaning: str = ""
    fix: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    count: int = 0
    waived: str = ""
    head: tuple[str, ...] = ()
    table: Sequence[tuple[str, ...]] = ()

    @property
    def stops(self) -> bool:
        """Whether it ends a run: an error that nobody has waived."""
        return self.level == "error" and not self.waived

    def to_json(self) -> dict[str, Any]:
        """The finding as a dict of plain values, for JSON."""
        return asdict(self)
