"""Ranks of the learner that share workers: one of them asks, and all of them get answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def runs(world: int, count: int) -> list[range]:
    """All ranks cut into `count` runs of neighbours, or into single ranks where there are no more of them.

    Neighbours in rank are neighbours in place: with a multiple of the machines no run lies on two of them.
    """
    count = min(count, world)
    return [range(n * world // count, (n + 1) * world // count) for n in range(count)]


@dataclass(frozen=True)
class Team:
    """A run of neighbours, as one of its ranks sees it.

    Args:
        number: of the team. count: of all teams.
        place: of this rank in it; the first one leads.
        size: its ranks.
        gather: one value of each of its ranks, in order; every one of them must call it.
    """

    number: int = 0
    count: int = 1
    place: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    @property
    def leads(self) -> bool:
        """Whether this rank has the team's workers."""
        return self.place == 0


def team_of(rank: int, world: int, count: int, gather: Callable[[range, Any], list[Any]]) -> Team:
    """The team of a rank, of `count` teams.

    Args:
        rank: this one.
        world: ranks of the learner.
        count: of workers to share.
        gather: values of a run of ranks.
    """
    found = runs(world, count)
    number = next(n for n, run in enumerate(found) if rank in run)
    own = found[number]
    return Team(number, len(found), rank - own.start, len(own), lambda value: gather(own, value))
