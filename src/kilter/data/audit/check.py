"""What a check is: it sees every row once, in one pass, and then says what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from kilter.data.audit.finding import SHOWN, Finding, Level, Rule
from kilter.data.audit.row import Row
from kilter.data.dataset import DataSpec
from kilter.data.encode import Encoder
from kilter.data.reading import ROW, BadRows
from kilter.registry import Registry
from kilter.types import Group


@dataclass
class Context:
    """What checks may look at beside the rows.

    Args:
        groups: all of them, by number; those beyond memory lie on disk.
        spec: how the data is read; None for groups without a source.
        bad: rows that could not be read.
        encoder: counts tokens; None: nothing is said of truncation.
        suites: prompts of evaluations by name, which no row may give away.
        look_for: what costs more and needs an extra: pii, toxicity, language.
        seed: of samples.
    """

    groups: Sequence[Group]
    spec: DataSpec | None = None
    bad: BadRows = field(default_factory=BadRows)
    encoder: Encoder | None = None
    suites: Mapping[str, Sequence[Group]] = field(default_factory=dict)
    look_for: frozenset[str] = frozenset()
    seed: int = 0
    flags: dict[str, array[int]] = field(default_factory=dict)

    def name(self, index: int) -> str:
        """What its source calls a row, or where it stands."""
        prompt = self.groups[index].prompt
        return prompt.id or self.place(index)

    def place(self, index: int) -> str:
        """The file and line of a row; its number where it comes from no file."""
        place = self.groups[index].prompt.metadata.get(ROW)
        return str(place[0]) if place else f"#{index}"

    def sample(self, count: int) -> frozenset[int] | range:
        """Numbers of some rows, drawn at random; all where they are few."""
        n = len(self.groups)
        if n <= count:
            return range(n)
        drawn = np.random.default_rng(self.seed).choice(n, count, replace=False)
        return frozenset(drawn.tolist())


class Check(ABC):
    """A family of checks. `see` is called of every row; `findings` once, after the last one."""

    rules: ClassVar[tuple[Rule, ...]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def see(self, row: Row) -> None:
        """Notes what it needs of a row, in a few bytes."""

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What it found: one finding for each of its rules."""

    def found(
        self,
        name: str,
        level: Level,
        value: str,
        rows: Iterable[int] = (),
        head: Sequence[str] = (),
        table: Sequence[tuple[str, ...]] = (),
        **numbers: float,
    ) -> Finding:
        """A finding of one of its rules, which flags these rows."""
        rule = next(r for r in self.rules if r.name == name)
        flagged = array("q", sorted(set(rows)))
        self.context.flags[name] = flagged
        ids = tuple(self.context.name(i) for i in flagged[:SHOWN])
        return Finding(
            name,
            rule.title,
            level,
            value,
            rule.meaning,
            rule.fix,
            {k: float(v) for k, v in numbers.items()},
            ids,
            len(flagged),
            head=tuple(head),
            table=tuple(table),
        )

    def unchecked(self, name: str, why: str) -> Finding:
        """A finding that says why nothing was looked at."""
        return self.found(name, "not checked", why)


families: Registry[type[Check]] = Registry("check")
"""Families of checks in the order of the page; a rule's name is known from its family."""


def rules() -> dict[str, Rule]:
    """Every rule by its name, in the order of the page."""
    return {rule.name: rule for family in families.in_order() for rule in family.rules}


def warn_if(bad: object) -> Level:
    """The level of what deserves a look."""
    return "warn" if bad else "ok"


def error_if(bad: object) -> Level:
    """The level of what has to be mended."""
    return "error" if bad else "ok"


def share_of(count: int, n: int) -> str:
    """A count with its share, for a person."""
    return f"{count} of {n} ({count / max(1, n):.1%})"
