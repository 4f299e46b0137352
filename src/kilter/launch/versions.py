"""Versions that all machines of a run must have alike: those of a cluster's nodes, and of who sends a job."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from importlib import metadata

from kilter.errors import UserError
from kilter.version import __version__

COMPARED = ("torch", "ray", "vllm")
"""Libraries beside Kilter and Python."""


def versions() -> dict[str, str]:
    """Those of this process, as far as they are installed."""
    # Pickles and bytecode of one minor version are read by all its releases.
    found = {"kilter": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            # 2.8.0+cpu here and 2.8.0+cu128 there are one version.
            found[name] = metadata.version(name).partition("+")[0]
    return found


def different(here: Mapping[str, str], there: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(here, there) by the name of what both have, and not alike. What one side lacks cannot differ."""
    return {n: (v, there[n]) for n, v in here.items() if there.get(n, v) != v}


def require_same(here: Mapping[str, str], there: Mapping[str, str], node: str) -> None:
    """Raises UserError where a node has another version of anything that both have."""
    wrong = [
        f"{n} {other} where this machine has {own}" for n, (own, other) in different(here, there).items()
    ]
    if wrong:
        raise UserError(
            "cluster.address",
            "(given)",
            f"leads to node {node}, which has {' and '.join(wrong)}",
            "install the same versions on all machines",
        )
