"""The room that machines have for workers: what each has free, and whether a worker fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Args:
        address: where others reach it.
        has: amount of each of its resources.
        left: what of it nobody has taken.
    """

    address: str
    has: Mapping[str, float]
    left: Mapping[str, float]


def amounts(of: Mapping[str, float]) -> str:
    """Resources in words, such as 2 CPU, 1 GPU."""
    return ", ".join(f"{value:g} {name}" for name, value in of.items())


def fits(nodes: Sequence[Node], wanted: Mapping[str, float], count: int = 1) -> bool:
    """Whether so many nodes could hold it, were all of them free."""
    return sum(all(n.has.get(name, 0) >= value for name, value in wanted.items()) for n in nodes) >= count


def free(nodes: Sequence[Node], wanted: Mapping[str, float]) -> str:
    """What each node has free of what is wanted."""
    lines = []
    for node in nodes:
        parts = [f"{node.left.get(n, 0):g} of {node.has.get(n, 0):g} {n}" for n in wanted]
        lines.append(f"node {node.address} has {', '.join(parts)} free")
    return "; ".join(lines) or "no node is there"
